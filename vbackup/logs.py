"""Sets up logs: one line an event on stderr, key=value or JSON (structlog), without secrets."""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from vbackup import redact

if TYPE_CHECKING:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["text", "json"]
FIELDS = "fields"
"""The attribute of a log record (`extra`) that holds the fields of an event of vbackup's own."""


def configure(format_: LogFormat = "text", verbosity: int = 0) -> None:
    """Route vbackup's own events and those of libraries to stderr.

    `verbosity`: -1 warnings only, 0 events, 1 details, 2 and more what libraries say too.
    """
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(_Lines(format_))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.WARNING)
    logging.getLogger("vbackup").setLevel(_level(verbosity))


class _Lines(logging.Formatter):
    """Formats by structlog, which takes a tenth of a second to load: with the first line only,
    as a run that is quiet has none."""

    def __init__(self, format_: LogFormat) -> None:
        super().__init__()
        self._format = format_

    def format(self, record: logging.LogRecord) -> str:
        return self._structured.format(record)

    @cached_property
    def _structured(self) -> structlog.stdlib.ProcessorFormatter:
        import structlog

        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _with_fields,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _scrub,
                _renderer(self._format),
            ],
        )


def _level(verbosity: int) -> int:
    if verbosity < 0:
        return logging.WARNING
    return logging.INFO if verbosity == 0 else logging.DEBUG


def _with_fields(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    event.update(getattr(event["_record"], FIELDS, {}))
    return event


def _renderer(format_: LogFormat) -> Processor:
    import structlog

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
