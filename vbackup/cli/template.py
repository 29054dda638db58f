"""The commented configuration that `init` writes: config.example.toml with values filled in."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files

LINKS = "#[[link]]"
LEGEND = "# rows, one or several"
_PLACE = files("vbackup.cli")


def example() -> str:
    """config.example.toml: every key with its default."""
    return (_PLACE / "config.example.toml").read_text(encoding="utf-8")


def presets() -> tuple[str, ...]:
    """The names that `--preset` takes."""
    found = (entry.name for entry in (_PLACE / "presets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def render(
    values: Mapping[str, str | None], preset: str | None = None, *, without: str | None = None
) -> str:
    """The text of a configuration file.

    `values` are strings by key path (`postgres.dsn`); None comments the key out. `without` is a
    section that is commented out as a whole."""
    text = _commented_out(example(), without) if without else example()
    for path, value in values.items():
        section, _, key = path.rpartition(".")
        text = _set(text, section, key, None if value is None else json.dumps(value))
    if not preset:
        return text
    return with_links(text, (_PLACE / "presets" / f"{preset}.toml").read_text(encoding="utf-8"))


def with_links(text: str, links: str) -> str:
    """The configuration with these links (TOML) instead of the example of a link."""
    if ignore := tomllib.loads(links).get("ignore"):
        text = _set(text, "", "ignore", json.dumps(ignore))
        links = re.sub(r"^ignore = .*\n\n?", "", links, flags=re.MULTILINE)
    before, _, after = text.partition(LINKS)
    legend = after[after.index(LEGEND) :]
    return before.removesuffix("#\n") + f"\n{links}\n{legend}"


def _commented_out(text: str, section: str) -> str:
    start = text.index(f"\n[{section}]") + 1
    end = text.index("\n\n", start)
    lines = text[start:end].split("\n")
    shown = "\n".join(line if line.startswith("#") else f"#{line}" for line in lines)
    return text[:start] + shown + text[end:]


def _set(text: str, section: str, key: str, value: str | None) -> str:
    """Set one key of one section, or comment it out; its remark stays."""
    lines = text.split("\n")
    here = ""
    for number, line in enumerate(lines):
        if header := re.match(r"#?\[+([\w.]+)\]+", line):
            here = header[1]
        found = re.match(rf"#?({re.escape(key)} = )(\"[^\"]*\"|[^#]*?)(\s*)(#.*)?$", line)
        if here == section and found:
            name, old, _, remark = found.groups()
            mark = "#" if value is None else ""
            set_ = f"{mark}{name}{old if value is None else value}"
            lines[number] = f"{set_:<39} {remark}" if remark else set_
            return "\n".join(lines)
    raise KeyError(f"the template has no {section}.{key}")
