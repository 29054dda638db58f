"""The types that settings are made of: durations, sizes, paths; and the base of all sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_duration(value: object) -> float:
    """Seconds of "300", 300, "5m", "1h30m". Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f"not a duration: {text!r} (write 30s, 5m, 26h, 7d)")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_size(value: object) -> int:
    """Bytes of 1024, "64KiB", "16 MiB", "10GB". Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(str(value).strip())
    if not found:
        raise ValueError(f"not a size: {value!r} (write 64KiB, 512MiB, 10GB)")
    number, prefix, binary = found.groups()
    base = 1024 if binary or not prefix else 1000
    return int(float(number) * base ** _POWERS[prefix.upper()])


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the configuration file's folder: cron has another cwd."""
    base = (info.context or {}).get("directory")
    return Path(base) / path.expanduser() if base else path.expanduser()


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
ConfigPath = Annotated[Path, AfterValidator(_beside_the_file)]
Memory = Annotated[
    int | None, BeforeValidator(lambda value: None if value == "auto" else parse_size(value))
]
"""Bytes, or None for "auto"."""
OneOrMany = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", populate_by_name=True)
