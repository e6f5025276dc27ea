"""``xai inspect``: what a bundle says of its model, for people and for machines."""
# ruff: noqa: PLC0415 - as in `xai_service.cli`, so that `xai --help` does not wait for what is heavy

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xai_service.cli_keys import public_keys
from xai_service.errors import ModelNotFound

if TYPE_CHECKING:
    from xai_service.console.model_card import Signature
    from xai_service.model.bundle import Bundle


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option("--markdown", "form", flag_value="markdown", help="The whole model card, as Markdown.")
@click.option("--html", "form", flag_value="html", help="The whole model card, as a page that stands alone.")
@click.option(
    "--cyclonedx", "form", flag_value="cyclonedx", help="A bill of materials (ML-BOM), as CycloneDX 1.6 JSON."
)
@click.option("--json", "form", flag_value="json", help="The manifest and the digests, as one line of JSON.")
@public_keys
def inspect(folder: Path, name: str | None, version: str | None, form: str | None, keys: tuple[Path, ...]) -> None:
    """Show what a bundle says of its model: its model card.

    FOLDER is a bundle, or a model repository with NAME and VERSION after it; without VERSION the highest is shown. The
    files' digests are checked first.
    """
    from xai_service import report
    from xai_service.keys import load_trusted
    from xai_service.model.bundle import Bundle

    bundle = Bundle.load(find_bundle(folder, name, version), load_trusted(keys) if keys else None)
    digest = bundle.manifest_sha256.hex()
    signature = signature_of(bundle)
    if form == "json":
        found = {
            "bundle": str(bundle.path),
            "manifest_sha256": digest,
            "signature": dataclasses.asdict(signature),
            "manifest": dataclasses.asdict(bundle.manifest),
        }
        click.echo(report.to_json(found))
        return
    if form == "cyclonedx":
        from xai_service.console.mlbom import cyclonedx

        click.echo(report.to_json(cyclonedx(bundle.manifest, digest), indent=2))
        return
    from xai_service.console.card_html import card_html
    from xai_service.console.card_text import card_markdown, card_terminal
    from xai_service.console.model_card import model_card

    write = {"html": card_html, "markdown": card_markdown, None: card_terminal}[form]
    click.echo(write(model_card(bundle.manifest, digest, signature)).rstrip("\n"))


def find_bundle(folder: Path, name: str | None, version: str | None) -> Path:
    """Returns the bundle's folder: ``folder`` itself, or that of the model in the repository ``folder``.

    Raises:
        ModelNotFound: there is none; names those there are.
    """
    from xai_service.model.manifest import MANIFEST_FILE, is_name
    from xai_service.model.repository import version_key

    if name is None:
        if (folder / MANIFEST_FILE).exists():
            return folder
        models = _folders_with(folder, f"*/{MANIFEST_FILE}")
        what = f"a repository of {', '.join(models)}: name one after it" if models else f"no bundle: no {MANIFEST_FILE}"
        raise ModelNotFound(f"{folder} is {what}")
    versions = sorted(_folders_with(folder / name, MANIFEST_FILE), key=version_key) if is_name(name) else []
    if not versions:
        models = _folders_with(folder, f"*/{MANIFEST_FILE}")
        raise ModelNotFound(f"{folder} has no model {name!r}; there are: {', '.join(models) or 'none'}")
    if version is None:
        return folder / name / versions[-1]
    if version not in versions:
        raise ModelNotFound(f"model {name!r} has no version {version!r}; there are: {', '.join(versions)}")
    return folder / name / version


def _folders_with(parent: Path, pattern: str) -> list[str]:
    """Names of the folders of ``parent`` in which the pattern is found."""
    from xai_service.model.manifest import is_name

    if not parent.is_dir():
        return []
    return [one.name for one in sorted(parent.iterdir()) if is_name(one.name) and next(one.glob(pattern), None)]


def signature_of(bundle: Bundle) -> Signature:
    """Returns what was found of the bundle's signature when it was loaded."""
    from xai_service.console.model_card import Signature

    if bundle.signed_by is not None:
        return Signature("verified", "verified: signed by a key that was trusted", bundle.signed_by)
    if bundle.is_signed:
        return Signature("unverified", "signed for these files; by whom was not checked, without a key")
    return Signature("none", "not signed")
