"""The commands that make keys, sign bundles and check them."""
# ruff: noqa: PLC0415 - as in cli.py: commands import what they need

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from xai_service.keys import PrivateKey

PASSPHRASE_VARIABLE = "XAI_KEY_PASSPHRASE"  # noqa: S105 (its name, which is no secret)

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
public_keys = click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Public key, or folder of them, one of which must have signed it. May be given more than once.",
)
_bundle = click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))


def load_key(path: Path) -> PrivateKey:
    """Returns the private key; its passphrase is taken from the environment, else asked for on a terminal.

    Raises:
        XaiError: it cannot be used; says why.
    """
    from xai_service.keys import PrivateKey

    return PrivateKey.load(path, _passphrase)


def _passphrase(*, confirm: bool = False) -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if not given:
        if not sys.stdin.isatty():
            raise click.ClickException(f"a passphrase is needed: set {PASSPHRASE_VARIABLE}")
        given = click.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return str(given).encode()


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "kind",
    type=click.Choice(["ed25519", "p256"]),
    default="ed25519",
    show_default=True,
    help="p256, which is ECDSA, for signatures that OpenSSF's model_signing is to verify too.",
)
@click.option(
    "--protect", is_flag=True, help=f"Protect the private key by a passphrase, from {PASSPHRASE_VARIABLE} or asked for."
)
@_json
def keygen(name: Path, kind: Literal["ed25519", "p256"], protect: bool, as_json: bool) -> None:
    """Make a key to sign bundles with.

    NAME.key is the private key, for who packs; NAME.pub is the public one, for who serves.
    """
    from xai_service import report
    from xai_service.keys import PrivateKey

    key = PrivateKey.generate(kind)
    private, public = key.save(name, _passphrase(confirm=True) if protect else None)
    facts = {"private_key": str(private), "public_key": str(public), "key_id": key.public.key_id}
    click.echo(report.to_json(facts) if as_json else "\n".join(facts.values()))


@click.command("sign")
@_bundle
@click.option(
    "--key",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key, from `xai keygen`.",
)
@_json
def sign_command(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign a bundle that was packed before.

    BUNDLE is its folder, REPO/NAME/VERSION. A signature that is there is replaced.
    """
    from xai_service import report
    from xai_service.pack.signing import sign_bundle

    private = load_key(key)
    path = sign_bundle(bundle, private)
    click.echo(
        report.to_json({"signature": str(path), "key_id": private.public.key_id}) if as_json else str(path),
    )


@click.command("verify-bundle")
@_bundle
@public_keys
@_json
def verify_bundle(bundle: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check that each file of a bundle is the one that was packed and signed.

    BUNDLE is its folder. Without --key, who signed it is not checked.
    """
    from xai_service import report
    from xai_service.keys import load_trusted
    from xai_service.model.bundle import Bundle

    found = Bundle.load(bundle, load_trusted(keys) if keys else None)
    facts = {
        "model": found.manifest.name,
        "version": found.manifest.version,
        "signed": found.is_signed,
        "signed_by": found.signed_by,
        "sha256": dict(sorted(found.digests.items())),
    }
    if as_json:
        click.echo(report.to_json(facts))
        return
    for name, digest in sorted(found.digests.items()):
        click.echo(f"{digest}  {name}")
    if found.signed_by:
        click.echo(f"signed by key {found.signed_by}")
    else:
        click.echo("signed; by whom was not checked, without --key" if found.is_signed else "not signed")
