"""Reads the configuration file: TOML, references to secrets, and all mistakes in one go."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from vbackup import redact
from vbackup.config import Config, RepositoryConfig
from vbackup.errors import Usage
from vbackup.mistakes import join_key, summary, validate
from vbackup.references import References

DEFAULT_PATH = Path("vbackup.toml")
PATH_VARIABLE = "VBACKUP_CONFIG"

_PASSWORD = re.compile(
    r"://[^/\s:@]*:([^@\s]+)@|password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']+)", re.IGNORECASE
)
# What stands for the sections that a command does not need.
_STAND_IN = {"postgres": {"dsn": ""}, "qdrant": {}}
# Secrets that drivers read from the environment by themselves.
_AMBIENT = ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value came from: `file`, `env NAME`, `file /path` or `default`."""

    key: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A loaded configuration; `origins` lists every value that the file sets, secrets masked."""

    config: Config
    path: Path
    origins: tuple[Origin, ...]


def locate(path: Path | None = None) -> Path:
    """The file to read: the given one, else $VBACKUP_CONFIG, else ./vbackup.toml."""
    return path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path | None = None) -> Settings:
    """Read and check the configuration.

    Raises Usage: no such file, TOML that does not parse, or the list of all mistakes.
    """
    where = locate(path)
    return loads(_read(where), where)


def loads(text: str, where: Path) -> Settings:
    """Check a configuration as if the file held this text. Raises Usage."""
    raw = _parse(where, text)
    references = References(where.parent.absolute())
    values = references.resolve(raw)
    config, mistakes = validate(values, where.parent.absolute(), references.mistakes)
    if config is None or mistakes:
        raise Usage(summary(where, mistakes), hint=f"correct {where}, then: vbackup check")
    _register_secrets(config)
    return Settings(config, where, tuple(_origins(config, references.sources)))


def load_repository(path: Path | None = None) -> RepositoryConfig:
    """Only [repository]: for commands that need neither database, so that they work on a
    machine that has nothing but the bucket. Raises Usage, with the mistakes of that section."""
    return _load_sections(path, "repository").repository


def load_drill(path: Path | None = None) -> Config:
    """[repository] and [drill]: a drill needs no way to the live pair. Raises Usage."""
    return _load_sections(path, "repository", "drill")


def _load_sections(path: Path | None, *names: str) -> Config:
    """The configuration as if it had only these sections (and what must be there)."""
    where = locate(path)
    raw = _parse(where, _read(where))
    references = References(where.parent.absolute())
    sections = references.resolve({name: raw[name] for name in names if name in raw})
    values = {**_STAND_IN, **sections}
    config, mistakes = validate(values, where.parent.absolute(), references.mistakes)
    if config is None or mistakes:
        raise Usage(summary(where, mistakes), hint=f"correct {where}")
    for name in names:
        _register_secrets(getattr(config, name))
    return config


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Usage(f"no configuration file {path}", hint="create one: vbackup init") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Usage(
            f"cannot read {path}: {reason}", hint="run vbackup as the account that owns the file"
        ) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{path} is not valid TOML: {error}", hint="see config.example.toml") from None


def _register_secrets(config: BaseModel) -> None:
    """Every secret value, and the passwords within DSNs and URLs, go to the redaction."""
    for name in _AMBIENT:
        redact.register(os.environ.get(name))
    for key, value in _leaves(config):
        secret = isinstance(value, SecretStr)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if secret and key not in ("postgres.dsn", "redis.url"):
            redact.register(text)
        register_passwords(text)


def register_passwords(text: str) -> None:
    """Let the redaction know the passwords within a DSN or URL."""
    for found in _PASSWORD.finditer(text):
        password = (found[1] or found[2]).strip("'")
        redact.register(password)
        redact.register(unquote(password))


def _origins(config: Config, sources: Mapping[str, str]) -> Iterator[Origin]:
    for key, value in _leaves(config, only_set=True):
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        shown = redact.scrub(text) if not _opaque(key, value) else redact.MASK
        yield Origin(key, shown, sources.get(key, "file"))


def _opaque(key: str, value: object) -> bool:
    """Whether the whole value is secret, not only a password within it."""
    return isinstance(value, SecretStr) and key not in ("postgres.dsn", "redis.url")


def _leaves(
    section: BaseModel, key: str = "", only_set: bool = False
) -> Iterator[tuple[str, object]]:
    for name in type(section).model_fields:
        if only_set and name not in section.model_fields_set:
            continue
        value = getattr(section, name)
        path = join_key(key, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, path, only_set)
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            for number, item in enumerate(value):
                yield from _leaves(item, join_key(path, number), only_set)
        elif value is not None:
            yield path, value
