"""Reads the configuration file: TOML, references to secrets, and all mistakes in one go."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from vbackup import redact
from vbackup.config import Config, RepositoryConfig
from vbackup.errors import Usage

DEFAULT_PATH = Path("vbackup.toml")
PATH_VARIABLE = "VBACKUP_CONFIG"

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
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


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with the file; `key` is its path, such as `link[0].rows[1].key`."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def locate(path: Path | None = None) -> Path:
    """The file to read: the given one, else $VBACKUP_CONFIG, else ./vbackup.toml."""
    return path or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path | None = None) -> Settings:
    """Read and check the configuration.

    Raises Usage: no such file, TOML that does not parse, or the list of all mistakes.
    """
    where = locate(path)
    raw = _parse(where, _read(where))
    references = _References(where.parent.absolute())
    values = references.resolve(raw)
    config, mistakes = _validate(values, where.parent.absolute(), references)
    if config is None or mistakes:
        raise Usage(_summary(where, mistakes), hint=f"correct {where}, then: vbackup check")
    _register_secrets(config)
    return Settings(config, where, tuple(_origins(config, references.sources)))


def load_repository(path: Path | None = None) -> RepositoryConfig:
    """Only [repository]: for commands that need neither database, so that they work on a
    machine that has nothing but the bucket. Raises Usage, with the mistakes of that section."""
    where = locate(path)
    raw = _parse(where, _read(where))
    references = _References(where.parent.absolute())
    section = references.resolve({"repository": raw.get("repository", {})})
    values = {**_STAND_IN, **section} if "repository" in raw else dict(_STAND_IN)
    config, mistakes = _validate(values, where.parent.absolute(), references)
    if config is None or mistakes:
        raise Usage(_summary(where, mistakes), hint=f"correct {where}")
    _register_secrets(config.repository)
    return config.repository


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Usage(f"no configuration file {path}", hint="create one: vbackup init") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Usage(f"cannot read {path}: {reason}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{path} is not valid TOML: {error}", hint="see config.example.toml") from None


@dataclass(slots=True)
class _References:
    """Replaces `${env:NAME}` and `${file:/path}` in every string, and remembers where from."""

    directory: Path
    sources: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def resolve(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self.resolve(inner, _join(key, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner, _join(key, n)) for n, inner in enumerate(value)]
        return self._text(value, key) if isinstance(value, str) else value

    def _text(self, text: str, key: str) -> str:
        return _REFERENCE.sub(lambda found: self._lookup(found[1], found[2], key), text)

    def _lookup(self, kind: str, name: str, key: str) -> str:
        self.sources[key] = f"{kind} {name}"
        value = os.environ.get(name) if kind == "env" else self._file(name, key)
        if value is None and kind == "env":
            self.mistakes.append(Mistake(key, f"environment variable {name} is not set"))
        return value or ""

    def _file(self, name: str, key: str) -> str | None:
        try:
            return (self.directory / Path(name).expanduser()).read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            self.mistakes.append(Mistake(key, f"cannot read {name}: {error.strerror}"))
        except UnicodeDecodeError:
            self.mistakes.append(Mistake(key, f"cannot read {name}: not UTF-8 text"))
        return None


def _validate(
    values: dict[str, Any], directory: Path, references: _References
) -> tuple[Config | None, list[Mistake]]:
    """The configuration, and every mistake, each key once."""
    config, found = None, list(references.mistakes)
    try:
        config = Config.model_validate(values, context={"directory": directory})
    except ValidationError as error:
        found += [_mistake(item) for item in _innermost(error.errors(include_url=False))]
    found += _cross_checks(values)
    # What is wrong because its variable is unset needs no second complaint.
    by_key: dict[str, Mistake] = {}
    for mistake in found:
        by_key.setdefault(mistake.key, mistake)
    return config, list(by_key.values())


def _innermost(items: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without complaints about a whole of which a part is already complained about."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if not any(
            len(p) > len(item["loc"]) and p[: len(item["loc"])] == item["loc"] for p in places
        )
    ]


def _mistake(item: ErrorDetails) -> Mistake:
    loc = item["loc"]
    key = _key(loc)
    if item["type"] == "missing":
        section = len(loc) == 1
        return Mistake(key, f"missing section [{key}]" if section else "missing")
    if item["type"] == "extra_forbidden":
        return Mistake(key, "unknown key" + _suggestion(loc))
    return Mistake(key, item["msg"].removeprefix("Value error, "))


def _cross_checks(values: Mapping[str, Any]) -> Iterator[Mistake]:
    """Rules between sections; on raw values, so that they are reported with everything else."""
    vectors = values.get("vectors")
    engine = vectors.get("engine") if isinstance(vectors, dict) else None
    if "qdrant" not in values and engine != "pgvector":
        yield Mistake("qdrant", "missing section [qdrant]")
    yield from _passphrase_check(values.get("repository"))
    yield from _duplicate_links(values.get("link"))


def _passphrase_check(repository: object) -> Iterator[Mistake]:
    if not isinstance(repository, dict):
        return
    given = [n for n in ("passphrase", "passphrase_file", "passphrase_command") if n in repository]
    if repository.get("encryption", "passphrase") == "passphrase" and not given:
        yield Mistake(
            "repository.passphrase",
            'missing: encryption is "passphrase"; set passphrase, passphrase_file or'
            ' passphrase_command (or encryption = "none")',
        )
    if len(given) > 1:
        yield Mistake(f"repository.{given[-1]}", f"only one of {', '.join(given)} may be set")


def _duplicate_links(links: object) -> Iterator[Mistake]:
    seen: set[object] = set()
    for number, link in enumerate(links if isinstance(links, list) else []):
        name = link.get("name") if isinstance(link, dict) else None
        if isinstance(name, str) and name in seen:
            yield Mistake(f"link[{number}].name", f"another link is named {name!r}")
        seen.add(name if isinstance(name, str) else None)


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """`, did you mean X?` for a key that looks like one that exists."""
    model: type[BaseModel] | None = Config
    for step in loc[:-1]:
        if isinstance(step, str) and model is not None:
            model = _section(model, step)
    names = list(model.model_fields) if model else []
    wrong = str(loc[-1])
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return f", did you mean {close[0]}?"
    home = [section for section in Config.model_fields if wrong in _names_of(section)]
    return f", it belongs into [{home[0]}]" if home else ""


def _names_of(section: str) -> list[str]:
    model = _section(Config, section)
    return list(model.model_fields) if model else []


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model that a field holds (alone, optional, or in a tuple), if it holds one."""
    info = model.model_fields.get(name)
    pending: list[Any] = [info.annotation] if info else []
    while pending:
        candidate = pending.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        pending += get_args(candidate)
    return None


def _summary(path: Path, mistakes: list[Mistake]) -> str:
    count = f"{len(mistakes)} mistakes" if len(mistakes) != 1 else "1 mistake"
    return "\n".join([f"{count} in {path}", *(f"  {mistake}" for mistake in mistakes)])


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
        path = _join(key, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, path, only_set)
        elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
            for number, item in enumerate(value):
                yield from _leaves(item, _join(path, number), only_set)
        elif value is not None:
            yield path, value


def _join(key: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{key}[{step}]"
    return f"{key}.{step}" if key else step


def _key(loc: tuple[int | str, ...]) -> str:
    key = ""
    for step in loc:
        key = _join(key, step)
    return key
