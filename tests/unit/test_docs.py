"""The docs and the program agree: commands, options, configuration keys, exit codes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic_core import PydanticUndefined

from vbackup.cli.main import COMMANDS, cli
from vbackup.cli.options import SHARED
from vbackup.config import Config
from vbackup.errors import EXIT_CODES
from vbackup.mistakes import section_model

ROOT = Path(__file__).parents[2]
COMMANDS_PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
CONFIG_PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")

# Model, heading in docs/configuration.md, path of the table in the file.
SECTIONS = [
    ("", "## Top level"),
    ("postgres", "## `[postgres]`"),
    ("qdrant", "## `[qdrant]`"),
    ("repository", "## `[repository]`"),
    ("watermark", "## `[watermark]`"),
    ("retention", "## `[retention]`"),
    ("link", "## `[[link]]`"),
    ("link.rows", "### `rows`"),
    ("link.point", "### `point`"),
    ("link.vectors", "### `vectors`"),
    ("redis", "## `[redis]`"),
    ("schedule", "## `[schedule]`"),
    ("drill", "## `[drill]`"),
    ("drill.check", "### `check`"),
    ("objective", "## `[objective]`"),
    ("hooks", "## `[hooks]`"),
    ("notify", "## `[notify]`"),
    ("vectors", "## `[vectors]`"),
]


# ---------------------------------------------------------------- commands


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name: `backup`, `key add`."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        found = cli.get_command(context, name)
        assert found is not None
        yield name, found
        if isinstance(found, click.Group):
            for verb, inner in found.commands.items():
                yield f"{name} {verb}", inner


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading!r}"
    return found[1]


def own_options(command: click.Command) -> set[str]:
    shared = {name for option in _shared(command) for name in option.opts}
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--") and name not in shared
    }


def _shared(command: click.Command) -> list[click.Option]:
    return [
        option
        for option in command.params
        if isinstance(option, click.Option) and option.name in SHARED and not option.expose_value
    ]


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_option_is_documented_and_every_documented_option_exists(name: str) -> None:
    command = dict(commands())[name]
    text = section(
        COMMANDS_PAGE, f"### `vbackup {name}`" if " " in name else f"## `vbackup {name}`"
    )
    documented = set(re.findall(r"^\| `(--[a-z0-9-]+)", text, re.MULTILINE))
    documented |= set(re.findall(r"^\| `--[a-z0-9-]+`, `(--[a-z0-9-]+)", text, re.MULTILINE))
    assert documented == own_options(command)


def test_every_documented_command_exists() -> None:
    documented = set(re.findall(r"^##+ `vbackup ([a-z ]+)`", COMMANDS_PAGE, re.MULTILINE))
    assert documented == {name for name, _ in commands()}


def test_shared_options_are_documented() -> None:
    text = section(COMMANDS_PAGE, "## Options of every command")
    for option in _shared(cli):
        assert f"`{option.opts[-1]}" in text


def test_every_command_takes_the_shared_options() -> None:
    wanted = {option.name for option in _shared(cli)}
    for name, command in commands():
        assert wanted <= {p.name for p in command.params}, name


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_table_says_what_the_command_says(name: str) -> None:
    command = dict(commands())[name]
    assert command.get_short_help_str(limit=100) == COMMANDS[name][1]


def test_every_command_explains_itself() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_exit_codes_are_documented() -> None:
    text = section(COMMANDS_PAGE, "## Exit codes")
    documented = {
        int(code): (name, meaning)
        for code, name, meaning in re.findall(
            r"^\| (\d+) \| ([a-z-]+) \| (.+?) \|$", text, re.MULTILINE
        )
    }
    assert documented == EXIT_CODES


# ---------------------------------------------------------------- configuration


def model_of(path: str) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for step in path.split(".") if path else ():
        found = section_model(model, step)
        assert found is not None
        model = found
    return model


def own_keys(path: str) -> set[str]:
    """The keys of a section that are values, not sections of their own."""
    model = model_of(path)
    nested = {"rows", "point", "vectors"} if path == "link" else set()
    return {k for k in model.model_fields if section_model(model, k) is None or k in nested}


def documented_rows(heading: str) -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\| .+\|$", section(CONFIG_PAGE, heading), re.MULTILINE)
    return {key: default.strip("` ") for key, default in rows}


def test_every_section_is_documented() -> None:
    sections = {name for name in Config.model_fields if section_model(Config, name)}
    assert sections == {path for path, _ in SECTIONS if path and "." not in path}
    headings = set(re.findall(r"^##+ `\[+(\w+)\]+`", CONFIG_PAGE, re.MULTILINE))
    assert headings == sections


@pytest.mark.parametrize(("path", "heading"), SECTIONS)
def test_every_key_is_documented(path: str, heading: str) -> None:
    assert documented_rows(heading).keys() == own_keys(path)


@pytest.mark.parametrize(("path", "heading"), SECTIONS)
def test_documented_defaults_are_the_defaults(path: str, heading: str) -> None:
    model = model_of(path)
    for key, shown in documented_rows(heading).items():
        if key == "point":
            continue
        default = plain(default_of(model, key))
        if not shown:
            assert default is None, key
        else:
            assert read(model, key, tomllib.loads(f"v = {shown}")["v"]) == default, key


def default_of(model: type[BaseModel], key: str) -> Any:
    value = model.model_fields[key].get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def read(model: type[BaseModel], key: str, value: object) -> Any:
    """The value as the model reads it from a file."""
    kind = model.model_fields[key].rebuild_annotation()
    return plain(TypeAdapter(kind).validate_python(value))


def plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return list(value) if isinstance(value, tuple) else value


# ---------------------------------------------------------------- config.example.toml


def uncommented() -> str:
    """The example with every default taken out of its comment."""
    return re.sub(r"^#(?=\w+ = |\[)", "", EXAMPLE, flags=re.MULTILINE)


def test_the_packaged_template_is_the_example() -> None:
    packaged = ROOT / "vbackup/cli/config.example.toml"
    assert packaged.read_text(encoding="utf-8") == EXAMPLE


@pytest.mark.parametrize(("path", "heading"), SECTIONS)
def test_the_example_shows_every_key(path: str, heading: str) -> None:
    if path.startswith("link."):
        legend = EXAMPLE[EXAMPLE.index("# rows, one or several:") :]
        assert all(re.search(rf"\b{key}\b", legend) for key in own_keys(path))
        return
    table: Any = tomllib.loads(uncommented())
    for step in path.split(".") if path else ():
        table = table[step]
    # Several tables of one kind show what cannot stand in one of them.
    shown = set().union(*table) if isinstance(table, list) else set(table)
    assert own_keys(path) <= shown


def test_the_example_shows_the_defaults() -> None:
    """What is commented out changes nothing, unless its remark says what the default is."""
    here = ""
    for line in EXAMPLE.splitlines():
        if header := re.match(r"#?\[+([\w.]+)\]+", line):
            here = header[1]
        found = re.match(r"#(\w+) = (.*?)(?:\s+#(.*))?$", line)
        if not found or here in {"link", "drill.check"}:
            continue
        key, value, remark = found.groups()
        default = plain(default_of(model_of(here), key))
        if default is None:
            explained = here in {"redis", "schedule"} or key.startswith("passphrase")
            assert explained or "default:" in (remark or ""), line
        else:
            shown = tomllib.loads(f"v = {value}")["v"]
            assert read(model_of(here), key, shown) == default, line


def test_the_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from vbackup.settings import load

    monkeypatch.setenv("DATABASE_URL", "postgresql://app@localhost/app")
    config = load(ROOT / "config.example.toml").config
    assert config.watermark == type(config.watermark)()
    assert config.retention == type(config.retention)()


def test_everything_in_the_example_is_accepted() -> None:
    values = tomllib.loads(uncommented())
    values["repository"].pop("passphrase")
    values["repository"].pop("passphrase_command")
    assert Config.model_validate(values).link[0].name == "documents"
