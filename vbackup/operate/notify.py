"""Tells people and other systems how a job ended: webhook, Apprise URLs, dead man's ping.

A notification that cannot be delivered is a warning: it never makes a good backup a bad one.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import URLError

from pydantic import SecretStr

from vbackup.config import NotifyConfig
from vbackup.operate.history import Run
from vbackup.ports import Reporter
from vbackup.redact import safe_url, scrub


@dataclass(frozen=True, slots=True)
class Notifier:
    """Sends what the configuration asks for."""

    config: NotifyConfig
    reporter: Reporter
    host: str

    def tell(self, run: Run) -> None:
        """Notify of an ended run, by `notify.on`; ping after every good backup. A run that the
        history does not know is told like a failure: nothing else may say that it ran."""
        if run.job == "backup" and run.ok and self.config.ping:
            self._post(self.config.ping, None)
        quiet = run.ok and not run.unnoted
        if self.config.on == "never" or (self.config.on == "failure" and quiet):
            return
        if self.config.webhook:
            self._post(self.config.webhook, json.dumps(message(run, self.host)).encode())
        if self.config.urls:
            self._apprise(run, self.config.urls)

    def _post(self, url: SecretStr, body: bytes | None) -> None:
        target = url.get_secret_value()
        try:
            request = urllib.request.Request(  # noqa: S310 - the URL is the operator's own
                target, data=body, headers={"Content-Type": "application/json"}
            )
            # Only the status counts: an answer that never ends is not waited for.
            urllib.request.urlopen(request, timeout=self.config.timeout).close()  # noqa: S310
        except (URLError, OSError) as error:
            # The path of such a URL often is the secret, so only its host is named.
            self._undelivered(_host(target), scrub(str(error)))
        except (HTTPException, ValueError) as error:
            # These quote the URL.
            self._undelivered(_host(target), type(error).__name__)

    def _undelivered(self, to: str, reason: str) -> None:
        self.reporter.warn("a notification was not delivered", to=to, reason=reason)

    def _apprise(self, run: Run, urls: Sequence[SecretStr]) -> None:
        try:
            import apprise
        except ImportError:
            self.reporter.warn("notify.urls needs Apprise: pip install 'vbackup[notify]'")
            return
        sender = apprise.Apprise()
        for url in urls:
            sender.add(url.get_secret_value())
        told = message(run, self.host)
        good = apprise.NotifyType.WARNING if run.unnoted else apprise.NotifyType.SUCCESS
        kind = good if run.ok else apprise.NotifyType.FAILURE
        if not sender.notify(title=told["title"], body=told["text"], notify_type=kind):
            self._undelivered("notify.urls", "Apprise could not deliver it")


def message(run: Run, host: str) -> dict[str, str | int | float | bool]:
    """The webhook's JSON document. `text` also suits chat systems that show just that."""
    title = f"vbackup {run.job} on {host}: {run.outcome}"
    detail = f" ({run.error})" if run.error else ""
    detail += f"; it is not noted: {run.unnoted}" if run.unnoted else ""
    return {
        "schema": "vbackup.notification/1",
        "title": title,
        "text": f"{title} after {run.seconds:.0f} s{detail}",
        "job": run.job,
        "ok": run.ok,
        "exit_code": -1 if run.code is None else run.code,
        "outcome": run.outcome,
        "id": str(run.document.get("id", "")),
        "seconds": run.seconds,
        "host": host,
    }


def _host(url: str) -> str:
    return safe_url(url).split("://", 1)[-1].split("/", 1)[0]
