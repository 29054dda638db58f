"""A configuration out of --repository and the environment: for a machine that has lost all else.

Credentials come from where every tool looks for them: AWS_*, AWS_ENDPOINT_URL, DATABASE_URL,
QDRANT_URL, QDRANT_API_KEY, VBACKUP_PASSPHRASE.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr

from vbackup import redact
from vbackup.config import Config, PostgresConfig, QdrantConfig, RepositoryConfig
from vbackup.settings import Settings, load, locate, register_passwords


def settings(path: Path | None, repository: str, passphrase_file: Path | None) -> Settings:
    """The configured settings with another repository, or without a file the environment's.

    A configuration file that was named must be there. Raises Usage."""
    if no_file(path):
        return Settings(_environment(repository, passphrase_file), locate(path), ())
    found = load(path)
    changed = found.config.model_copy(
        update={"repository": _elsewhere(found.config.repository, repository, passphrase_file)}
    )
    return Settings(changed, found.path, found.origins)


def no_file(path: Path | None) -> bool:
    """Whether no configuration was named, and none is where it is looked for."""
    return path is None and not locate(path).exists()


def _environment(repository: str, passphrase_file: Path | None) -> Config:
    dsn = os.environ.get("DATABASE_URL", "")
    register_passwords(dsn)
    return Config(
        postgres=PostgresConfig(dsn=SecretStr(dsn)),
        qdrant=QdrantConfig(
            url=os.environ.get("QDRANT_URL", "http://localhost:6333"),
            api_key=_secret("QDRANT_API_KEY"),
        ),
        repository=_elsewhere(RepositoryConfig(url=repository), repository, passphrase_file),
    )


def _elsewhere(
    config: RepositoryConfig, repository: str, passphrase_file: Path | None
) -> RepositoryConfig:
    """The same connection settings for another URL, with its own passphrase."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    passphrase = None if passphrase_file else _secret("VBACKUP_PASSPHRASE")
    given = passphrase_file is not None or passphrase is not None
    configured = config.passphrase or config.passphrase_file or config.passphrase_command
    update: dict[str, object] = {
        "url": repository,
        "endpoint_url": config.endpoint_url or endpoint,
        # Whether it is encrypted is the repository's to say: without any passphrase it is asked.
        "encryption": "passphrase" if given or configured else "none",
    }
    if given:
        update |= {
            "passphrase": passphrase,
            "passphrase_file": passphrase_file,
            "passphrase_command": None,
        }
    return config.model_copy(update=update)


def _secret(name: str) -> SecretStr | None:
    value = os.environ.get(name)
    redact.register(value)
    return SecretStr(value) if value else None
