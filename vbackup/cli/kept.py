"""Where commands keep what a person may need again: state files, copies of what went."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vbackup.cli.session import Session


def state_directory(session: Session) -> Path:
    """Beside the configuration, or, where nobody may write there (a mounted secret, say), in the
    current folder, or else in the work directory."""
    beside = session.settings.path.absolute().parent
    last = session.config.watermark.work_dir or Path(tempfile.gettempdir())
    return next((path for path in (beside, Path.cwd()) if os.access(path, os.W_OK)), last)


def kept_file(session: Session, what: str) -> Path:
    """The name of a new file of JSON lines there."""
    return state_directory(session) / f"vbackup-{what}-{session.clock.now():%Y%m%dT%H%M%S}.jsonl"
