"""Sets up structlog: one line an event on stderr, key=value or JSON, without secrets."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from vbackup import redact

LogFormat = Literal["text", "json"]


def configure(format_: LogFormat = "text", verbosity: int = 0) -> None:
    """Route vbackup's own events and those of libraries to stderr.

    `verbosity`: -1 warnings only, 0 events, 1 details, 2 and more what libraries say too.
    """
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_level(verbosity)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _scrub,
                _renderer(format_),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.WARNING)
    logging.getLogger("vbackup").setLevel(_level(verbosity))


def _level(verbosity: int) -> int:
    if verbosity < 0:
        return logging.WARNING
    return logging.INFO if verbosity == 0 else logging.DEBUG


def _shared() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def _renderer(format_: LogFormat) -> Processor:
    if format_ == "json":
        return structlog.processors.JSONRenderer(default=str)
    return structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], bool_as_flag=False
    )


def _scrub(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """The last processor before rendering: nothing added earlier escapes it."""
    cleaned = redact.scrub_tree(event)
    return cleaned if isinstance(cleaned, dict) else event


class _Stderr:
    """Whatever sys.stderr is now: a progress display puts its own stream there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
