"""The repository's passphrase: from the settings, a file or a command; never from an argument."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from vbackup import redact
from vbackup.config import RepositoryConfig
from vbackup.errors import Denied

COMMAND_SECONDS = 60.0


def configured(config: RepositoryConfig) -> str | None:
    """The passphrase, or None when the repository is not to be encrypted.

    Raises Denied when its file cannot be read, its command fails, or it is empty.
    """
    if config.encryption == "none":
        return None
    passphrase = _obtain(config)
    if not passphrase:
        raise Denied(
            "the configured passphrase is empty",
            hint="set repository.passphrase, passphrase_file or passphrase_command",
        )
    redact.register(passphrase)
    return passphrase


def from_file(path: Path) -> str:
    """The first line of a file, without its line end. Raises Denied."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Denied(
            f"cannot read the passphrase file {path}: {error.strerror}",
            hint="repository.passphrase_file or --passphrase-file names it",
        ) from None
    except UnicodeDecodeError:
        raise Denied(
            f"the passphrase file {path} is not UTF-8 text",
            hint="repository.passphrase_file or --passphrase-file names it",
        ) from None
    return text.split("\n", 1)[0].rstrip("\r")


def from_command(command: str) -> str:
    """The first line that a command prints. Raises Denied when it fails."""
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, check=True, timeout=COMMAND_SECONDS
        )
    except subprocess.CalledProcessError as error:
        # Its stderr is left out: nobody knows what such a command says there.
        raise Denied(
            f"the passphrase command ended with exit code {error.returncode}",
            hint="run repository.passphrase_command by hand",
        ) from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Denied(
            f"the passphrase command failed: {error}",
            hint="run repository.passphrase_command by hand",
        ) from None
    return done.stdout.decode("utf-8", "replace").split("\n", 1)[0].rstrip("\r")


def _obtain(config: RepositoryConfig) -> str:
    if config.passphrase is not None:
        return config.passphrase.get_secret_value()
    if config.passphrase_file is not None:
        return from_file(config.passphrase_file)
    return from_command(config.passphrase_command) if config.passphrase_command else ""
