"""The options that every command has, before and after its name, and the classes that add them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vbackup.cli.session import Session

SHARED = ("config", "repository", "passphrase_file", "json", "verbose", "quiet", "log_format")


def _take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value not in (None, False, 0):
        context.ensure_object(Session).take(str(parameter.name), value)


def shared_options() -> list[click.Option]:
    """Fresh option objects, so that groups and commands can each have their own."""
    path = click.Path(dir_okay=False, path_type=Path)
    return [
        _shared(
            ["--config"],
            type=path,
            metavar="FILE",
            help="Configuration; default $VBACKUP_CONFIG, then ./vbackup.toml.",
        ),
        _shared(
            ["--repository"],
            metavar="URL",
            help="Another repository than the configured one; needs no configuration file.",
        ),
        _shared(
            ["--passphrase-file"],
            type=path,
            metavar="FILE",
            help="Its passphrase; default $VBACKUP_PASSPHRASE.",
        ),
        _shared(["--json"], is_flag=True, help="One JSON document on stdout."),
        _shared(["-v", "--verbose"], count=True, help="Say more; -vv adds tracebacks."),
        _shared(["-q", "--quiet"], is_flag=True, help="Only results, warnings and errors."),
        _shared(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            help="Form of the log lines on stderr, off a terminal.",
        ),
    ]


def _with_shared(own: list[click.Parameter]) -> list[click.Parameter]:
    """A command's own options win over shared ones of the same name (`init --repository`)."""
    taken = {name for parameter in own for name in parameter.opts}
    return [*own, *(option for option in shared_options() if not taken & set(option.opts))]


def _shared(names: list[str], **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_take, **attributes)


class _Named(click.Command):
    """Takes the shared options too, and tells the session its name."""

    def __init__(
        self, name: str | None, params: list[click.Parameter] | None = None, **rest: Any
    ) -> None:
        super().__init__(name, params=_with_shared(params or []), **rest)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Before parsing, so that a mistake on the line is reported under the command's name.
        ctx.ensure_object(Session).command = _verb(ctx)
        return super().parse_args(ctx, args)


class Command(_Named):
    """A command of one verb (`backup`)."""


class Group(_Named, click.Group):
    """A command with verbs of its own (`key add`)."""

    command_class = Command


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """`@command("backup")`: a click command with the shared options."""
    return click.command(name, cls=Command, **attributes)


def group(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Group]:
    return click.group(name, cls=Group, **attributes)


pass_session = click.make_pass_decorator(Session, ensure=True)


def _verb(context: click.Context) -> str:
    """The word after `vbackup`: `key` for `vbackup key add`; empty before there is one."""
    if context.parent is None:
        return ""
    verb = context
    while verb.parent is not None and verb.parent.parent is not None:
        verb = verb.parent
    return verb.info_name or ""
