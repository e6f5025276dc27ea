"""`xai serve`, its settings from a file, the environment and flags; and `xai token`, for those who may call."""
# ruff: noqa: PLC0415 - as in cli.py: commands import what they need

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging
import os
import signal
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from xai_service import config_file
from xai_service.cli_target import json_lines
from xai_service.config import ServiceConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_FILE_VARIABLE = "XAI_CONFIG"
_CONFIG = "config"
# In the file, as they are flags and variables, and no fields of the settings.
_OTHERS: dict[str, type] = {"log_level": str, "log_format": str}
_NOT_SETTINGS = (_CONFIG, "print_config", "as_json")


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each field of `ServiceConfig`: the fields are the settings, there is no second list."""
    hints = config_file.setting_types()
    for field in reversed(dataclasses.fields(ServiceConfig)):
        given: dict[str, Any] = {"required": True}
        if field.default is not dataclasses.MISSING:
            given = {"default": field.default}
        elif field.default_factory is not dataclasses.MISSING:
            given = {"default": field.default_factory()}
        flag = field.name.replace("_", "-")
        hint = hints[field.name]
        multiple = typing.get_origin(hint) is tuple
        if multiple:
            hint = typing.get_args(hint)[0]
        command = click.option(
            f"--{flag}/--no-{flag}" if hint is bool else f"--{flag}",
            type=click.Path(path_type=Path) if hint is Path else hint,
            multiple=multiple,
            envvar=f"XAI_{field.name.upper()}",
            show_default=True,
            show_envvar=True,
            help=field.metadata["help"],
            **given,
        )(command)
    return command


def _read_file(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """What the file says takes the place of the defaults, before any other option is looked at."""
    if path is not None:
        context.default_map = config_file.read(path, _OTHERS)
        context.meta[_CONFIG] = str(path)
    return path


@click.command()
@click.option(
    "--config",
    _CONFIG,
    type=click.Path(path_type=Path),
    envvar=_FILE_VARIABLE,
    show_envvar=True,
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    help="TOML file of settings, by the names of the flags with _ for -; variables and flags win over it.",
)
@_setting_options
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    envvar="XAI_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="Least severe messages to log; the log goes to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"], case_sensitive=False),
    default="text",
    envvar="XAI_LOG_FORMAT",
    show_default=True,
    show_envvar=True,
    help="Lines of text, or a JSON object a line.",
)
@click.option("--print-config", is_flag=True, help="Print the settings in force, and where each is from, and end.")
@json_lines
def serve(*, as_json: bool, print_config: bool, log_level: str, log_format: str, **settings: Any) -> None:
    """Serve a model repository until SIGTERM or SIGINT.

    Requests in flight are finished before it ends; a second signal ends it at once.
    """
    from xai_service import report, workers
    from xai_service.logs import logging_to_stderr

    context = click.get_current_context()
    try:
        chosen = ServiceConfig(**settings)
    except ValueError as error:
        raise click.UsageError(str(error), context) from error
    if print_config:
        _print_config(context, as_json=as_json)
        return

    def on_ready(addresses: tuple[str, ...]) -> None:
        text = report.to_json({"listening": addresses}) if as_json else f"listening on {', '.join(addresses)}"
        click.echo(text)
        sys.stdout.flush()

    number = workers.this_worker()
    with logging_to_stderr(log_level, log_format), _ending_when_told():
        _warn_of_strange_variables()
        if number is None and chosen.workers > 1:
            sys.exit(_supervise(context, chosen, on_ready))
        workers.settle(chosen, number)
        from xai_service.wire.server import serve as serve_until_stopped  # after gRPC was told what to log

        serve_until_stopped(chosen, on_ready, number)


@contextlib.contextmanager
def _ending_when_told() -> Iterator[None]:
    """From the first moment on: process 1 of a container is ended by no signal that it does not handle."""
    before = {number: signal.signal(number, lambda *_: sys.exit(0)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _supervise(context: click.Context, config: ServiceConfig, on_ready: Callable[[tuple[str, ...]], None]) -> int:
    from xai_service.workers import Supervisor, shared_ports

    checks = () if config.health_listen is None else (config.health_listen,)
    with shared_ports((*config.listen, *checks)) as addresses:
        chosen: dict[str, Any] = {"listen": addresses[: len(config.listen)]}
        if checks:
            chosen["health_listen"] = addresses[-1]
        # Every setting in force, by flags, so that a worker started later is not another one than the first.
        command = [sys.executable, "-m", "xai_service.cli", "serve", "--json", *_flags(context, chosen)]
        environment = {name: value for name, value in os.environ.items() if name != _FILE_VARIABLE}
        return Supervisor(command, config.workers, on_ready, environment).run()


def _flags(context: click.Context, instead: Mapping[str, Any]) -> Iterator[str]:
    for option in context.command.params:
        value = (context.params | dict(instead)).get(str(option.name))
        if option.name in _NOT_SETTINGS or value is None:
            continue
        if isinstance(value, bool):
            yield (option.opts if value else option.secondary_opts)[0]
            continue
        for one in value if isinstance(value, tuple) else (value,):
            yield f"{option.opts[0]}={one}"


def _print_config(context: click.Context, *, as_json: bool) -> None:
    from xai_service import report

    sources = {
        ParameterSource.COMMANDLINE: "flag",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT_MAP: context.meta.get(_CONFIG, ""),
    }
    for option in context.command.params:
        name = str(option.name)
        if name in _NOT_SETTINGS:
            continue
        value = context.params[name]
        value = (
            [str(one) for one in value]
            if isinstance(value, tuple)
            else str(value)
            if isinstance(value, Path)
            else value
        )
        source = context.get_parameter_source(name)
        whence = sources.get(source, "default") if source is not None else "default"
        if as_json:
            click.echo(report.to_json({"setting": name, "value": value, "from": whence}))
        else:
            click.echo(f"{name} = {report.to_json(value)}  # {whence}" if value is not None else f"# {name} is not set")


def _warn_of_strange_variables() -> None:
    """Other programs may have variables of this prefix, as Kubernetes has; those near a setting's are misspelt ones."""
    from xai_service.workers import VARIABLE

    known = [VARIABLE, *(f"XAI_{name.upper()}" for name in (*config_file.setting_types(), *_OTHERS))]
    for name in os.environ:
        if name.startswith("XAI_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.9)
            if near:
                logging.getLogger(__name__).warning("the variable %s is no setting; did you mean %s?", name, near[0])


@click.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(["caller", "auditor", "operator"]),
    help="What its bearer may do; may be given several times.",
)
@json_lines
def token(name: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Make a token that says who calls, and the lines of the --access file that let it in.

    NAME is who it is for. The token itself is shown this once and kept nowhere: the file has its digest only.
    """
    from xai_service import report
    from xai_service.access_file import Role, check_name, entry_for, new_token

    try:
        check_name(name)
    except ValueError as error:
        raise click.UsageError(f"NAME {error}", click.get_current_context()) from error
    made = new_token()
    entry = entry_for(made, name, [Role(role) for role in dict.fromkeys(roles)])
    if as_json:
        click.echo(report.to_json({"token": made, "entry": entry}))
        return
    click.echo(f"# {made}  <- the token, for {name}: XAI_TOKEN, or `authorization: Bearer ...`; keep it secret")
    click.echo("# for the file of --access:")
    click.echo(entry, nl=False)
