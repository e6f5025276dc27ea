"""``xai inspect``: a bundle by its folder or by its name, in each form; and what is no bundle."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from xai_service.cli import main
from xai_service.keys import PrivateKey
from xai_service.model.bundle import Bundle
from xai_service.pack.signing import sign_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def shown(*arguments: object) -> str:
    result = inspect(*arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


def error(*arguments: object) -> str:
    result = inspect(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def repository(loan_repository: Path, tmp_path: Path) -> Path:
    """Versions 1, 9 and 10, a folder that is no bundle, and a hidden one."""
    copy = tmp_path / "models"
    shutil.copytree(loan_repository, copy)
    for version in ("9", "10"):
        folder = shutil.copytree(copy / "loan" / "1", copy / "loan" / version)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": version}))
    (copy / "notes").mkdir()
    (copy / "loan" / ".11.draft").mkdir()
    (copy / "loan" / ".11.draft" / "manifest.json").touch()
    return copy


def test_a_bundle_is_found(repository: Path) -> None:
    assert shown(repository / "loan" / "1").startswith("loan version 1\n")
    assert shown(repository, "loan", "9").startswith("loan version 9\n")
    assert shown(repository, "loan").startswith("loan version 10\n")


def test_each_form(repository: Path) -> None:
    bundle = repository / "loan" / "10"
    assert shown(bundle, "--markdown").startswith("# Model card: loan, version 10\n")
    assert shown(bundle, "--html").startswith("<!doctype html>\n")
    assert json.loads(shown(bundle, "--cyclonedx"))["specVersion"] == "1.6"
    (line,) = shown(bundle, "--json").splitlines()
    found = json.loads(line)
    manifest = Bundle.load(bundle).manifest
    assert found["manifest"] == json.loads(manifest.to_json())
    assert found["signature"] == {"state": "none", "text": "not signed", "key_id": None}
    assert len(found["manifest_sha256"]) == 64


def test_who_signed_it(repository: Path, tmp_path: Path) -> None:
    bundle, key = repository / "loan" / "10", PrivateKey.generate("ed25519")
    key.save(tmp_path / "signing", None)
    public = str(tmp_path / "signing.pub")
    assert "is not signed" in error(bundle, "--key", public)
    sign_bundle(bundle, key)
    signed = {option: json.loads(shown(bundle, "--json", *option))["signature"] for option in ((), ("--key", public))}
    assert signed[()]["state"] == "unverified"
    assert signed["--key", public]["state"] == "verified"
    assert signed["--key", public]["key_id"] == key.public.key_id
    assert "verified: signed by a key that was trusted" in shown(bundle, "--key", public)


def test_what_is_no_bundle(repository: Path, tmp_path: Path) -> None:
    assert error(repository) == f"{repository} is a repository of loan: name one after it"
    (tmp_path / "empty").mkdir()
    assert error(tmp_path / "empty") == f"{tmp_path / 'empty'} is no bundle: no manifest.json"
    assert error(repository, "lone") == f"{repository} has no model 'lone'; there are: loan"
    assert error(repository, "../models/loan").startswith(f"{repository} has no model '../models/loan'")
    assert error(repository, "loan", "8") == "model 'loan' has no version '8'; there are: 1, 9, 10"
    assert "does not exist" in inspect(tmp_path / "none").stderr


def test_a_damaged_bundle_has_no_card(repository: Path) -> None:
    """A card speaks of a file that was found to be the one that was packed."""
    model = repository / "loan" / "9" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    assert "expected SHA-256" in error(repository, "loan", "9")
