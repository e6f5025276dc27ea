"""The options of every command that talks to a running service: where it is, and how to be let in."""
# ruff: noqa: PLC0415 - as in cli.py: commands import what they need

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xai_service.client import Client

_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)

json_lines = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, one object for each line.")

_OPTIONS = (
    click.option(
        "--target",
        default="127.0.0.1:8001",
        envvar="XAI_TARGET",
        show_default=True,
        show_envvar=True,
        help="Where the service listens: host:port or unix:/path.",
    ),
    click.option(
        "--token", envvar="XAI_TOKEN", show_envvar=True, help="Token that says who calls; better in the variable."
    ),
    click.option(
        "--ca",
        type=_PEM,
        envvar="XAI_CA",
        show_envvar=True,
        help="Certificates, PEM, one of which issued the service's; with it the connection is TLS.",
    ),
    click.option(
        "--cert", type=_PEM, envvar="XAI_CERT", show_envvar=True, help="Certificate, PEM, that says who calls."
    ),
    click.option("--key", type=_PEM, envvar="XAI_KEY", show_envvar=True, help="Its private key, PEM."),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What these options said."""

    address: str
    token: str | None
    ca: Path | None
    certificate: Path | None
    key: Path | None

    def client(self) -> Client:
        """Returns a client of the service, to be closed."""
        from xai_service.client import Client

        try:
            return Client(
                self.address,
                token=self.token,
                root_certificates=self.ca,
                certificate=self.certificate,
                key=self.key,
            )
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from error


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options, and them to it as ``target``."""

    @functools.wraps(command)
    def with_target(
        *, target: str, token: str | None, ca: Path | None, cert: Path | None, key: Path | None, **rest: Any
    ) -> None:
        command(target=Target(target, token, ca, cert, key), **rest)

    decorated: Callable[..., None] = with_target
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
