"""Keys are made, bundles signed and checked from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess

import pytest
from click.testing import CliRunner

from tests.unit.test_cli import one_error, xai
from xai_service.cli import main
from xai_service.keys import PrivateKey
from xai_service.pack import pack


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch):
    monkeypatch.delenv("XAI_KEY_PASSPHRASE", raising=False)


@pytest.fixture
def bundle(loan_repository, tmp_path):
    """``loan`` 1, unsigned, to be altered at will."""
    shutil.copytree(loan_repository, tmp_path / "repository")
    return tmp_path / "repository" / "loan" / "1"


@pytest.fixture
def key(tmp_path):
    assert xai("keygen", str(tmp_path / "signing")).exit_code == 0
    return tmp_path / "signing.key"


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_keygen(kind, tmp_path):
    result = xai("keygen", str(tmp_path / "signing"), "--type", kind, "--json")
    private, public = tmp_path / "signing.key", tmp_path / "signing.pub"
    key_id = hashlib.sha256(public.read_bytes()).hexdigest()
    assert json.loads(result.stdout) == {"private_key": str(private), "public_key": str(public), "key_id": key_id}
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert PrivateKey.load(private).public.key_id == key_id
    assert "exists already" in one_error(xai("keygen", str(tmp_path / "signing")))
    assert xai("keygen", str(tmp_path / "other")).stdout.splitlines()[:2] == [
        str(tmp_path / "other.key"),
        str(tmp_path / "other.pub"),
    ]
    assert "nowhere" in one_error(xai("keygen", str(tmp_path / "nowhere" / "key")))


def test_sign_and_verify(bundle, key):
    public = str(key.with_suffix(".pub"))
    assert xai("verify-bundle", str(bundle)).stdout.splitlines()[-1] == "not signed"
    assert "is not signed" in one_error(xai("verify-bundle", str(bundle), "--key", public))
    result = xai("sign", str(bundle), "--key", str(key))
    assert result.stdout == f"{bundle / 'manifest.sig'}\n"
    assert "by whom was not checked" in xai("verify-bundle", str(bundle)).stdout
    checked = json.loads(xai("verify-bundle", str(bundle), "--key", public, "--json").stdout)
    key_id = json.loads(xai("sign", str(bundle), "--key", str(key), "--json").stdout)["key_id"]
    files = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in ("manifest.json", "model.onnx")}
    assert checked == {"model": "loan", "version": "1", "signed": True, "signed_by": key_id, "sha256": files}
    text = xai("verify-bundle", str(bundle), "--key", public).stdout
    assert text.splitlines() == [f"{files[name]}  {name}" for name in sorted(files)] + [f"signed by key {key_id}"]


def test_verify_names_what_was_altered(bundle, key):
    public = str(key.with_suffix(".pub"))
    xai("sign", str(bundle), "--key", str(key))
    for file in bundle.iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[:-10] + b"X" + whole[-9:])
        assert f"{bundle}/{file.name}: " in one_error(xai("verify-bundle", str(bundle), "--key", public))
        file.write_bytes(whole)
    (bundle / "model.onnx").unlink()
    assert "model.onnx: cannot be read" in one_error(xai("sign", str(bundle), "--key", str(key)))


def test_a_damaged_signature_can_be_made_anew_and_by_another_key(bundle, key, tmp_path):
    (bundle / "manifest.sig").write_text("damaged")
    assert "manifest.sig: is no signature" in one_error(xai("verify-bundle", str(bundle)))
    assert xai("sign", str(bundle), "--key", str(key)).exit_code == 0
    xai("keygen", str(tmp_path / "second"), "--type", "p256")
    assert xai("sign", str(bundle), "--key", str(tmp_path / "second.key")).exit_code == 0
    error = one_error(xai("verify-bundle", str(bundle), "--key", str(key.with_suffix(".pub"))))
    assert "which is not trusted" in error
    (tmp_path / "keys").mkdir()
    for public in (tmp_path / "second.pub", key.with_suffix(".pub")):
        shutil.copy(public, tmp_path / "keys")
    assert xai("verify-bundle", str(bundle), "--key", str(tmp_path / "keys")).exit_code == 0
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "manifest.sig", "model.onnx"]


def test_passphrases(bundle, tmp_path, monkeypatch):
    def keygen(name):
        return xai("keygen", str(tmp_path / name), "--protect")

    assert "set XAI_KEY_PASSPHRASE" in one_error(keygen("first"))  # no terminal to ask on
    monkeypatch.setenv("XAI_KEY_PASSPHRASE", "correct horse")
    assert keygen("first").exit_code == 0
    sign = ("sign", str(bundle), "--key", str(tmp_path / "first.key"))
    assert xai(*sign).exit_code == 0
    monkeypatch.setenv("XAI_KEY_PASSPHRASE", "wrong horse")
    assert "passphrase is wrong" in one_error(xai(*sign))
    monkeypatch.delenv("XAI_KEY_PASSPHRASE")
    assert "set XAI_KEY_PASSPHRASE" in one_error(xai(*sign))


def test_passphrases_are_asked_for_on_a_terminal(bundle, tmp_path, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr("xai_service.cli_keys.sys", type("sys", (), {"stdin": Terminal()}))
    runner = CliRunner()
    made = runner.invoke(main, ["keygen", str(tmp_path / "first"), "--protect"], input="horse\nhorse\n")
    assert made.exit_code == 0, made.output
    assert made.stdout.splitlines()[0] == str(tmp_path / "first.key")
    assert "horse" not in made.output
    done = runner.invoke(main, ["sign", str(bundle), "--key", str(tmp_path / "first.key")], input="horse\n")
    assert done.stdout == f"{bundle / 'manifest.sig'}\n"


def test_wrong_keys_are_named(bundle, key, tmp_path):
    public = str(key.with_suffix(".pub"))
    assert "signing.pub: is no private key" in one_error(xai("sign", str(bundle), "--key", public))
    assert "is a private key; give the public one" in one_error(xai("verify-bundle", str(bundle), "--key", str(key)))
    (tmp_path / "empty").mkdir()
    error = one_error(
        xai("models", "--repository", str(bundle.parents[1]), "--require-signed", str(tmp_path / "empty"))
    )
    assert "holds no public key" in error


def test_pack_signs(loans, key, tmp_path):
    booster = tmp_path / "loan.ubj"
    loans.booster.save_model(booster)
    rows = tmp_path / "rows.csv"
    loans.features.iloc[:50].to_csv(rows, index=False)
    options = ("--data", str(rows), "--name", "loan", "--out", str(tmp_path / "out"), "--missing", "all")
    result = xai("pack", str(booster), *options, "--sign", str(key))
    assert result.exit_code == 0, result.stderr
    public = str(key.with_suffix(".pub"))
    assert xai("verify-bundle", result.stdout.strip(), "--key", public).exit_code == 0
    broken = xai("pack", str(booster), *options, "--sign", public)
    assert "is no private key" in one_error(broken)
    assert not (tmp_path / "out" / "loan" / "2").exists()


def test_pack_signs_in_python(loans, tmp_path):
    key = PrivateKey.generate("p256")
    path = pack(loans.booster, loans.features.iloc[:50], name="loan", out=tmp_path, missing="all", key=key)
    _, public = key.save(tmp_path / "k")
    assert xai("verify-bundle", str(path), "--key", str(public)).exit_code == 0


def test_models_of_a_repository(bundle, key):
    shutil.copytree(bundle, bundle.parent / "2")
    xai("sign", str(bundle), "--key", str(key))
    repository = ("models", "--repository", str(bundle.parents[1]))
    known = [json.loads(line) for line in xai(*repository, "--json").stdout.splitlines()]
    assert [(one["version"], one["ready"], one["signed_by"]) for one in known] == [("1", True, ""), ("2", False, "")]
    assert "expected loan, version 2" in known[1]["reason"]
    assert known[0]["task"] == "binary_classification"
    trusted = xai(*repository, "--json", "--require-signed", str(key.with_suffix(".pub"))).stdout.splitlines()
    signed, unsigned = (json.loads(line) for line in trusted)
    assert signed["signed_by"] == hashlib.sha256(key.with_suffix(".pub").read_bytes()).hexdigest()
    assert "is not signed" in unsigned["reason"]
    assert "--require-signed goes with --repository" in one_error(
        xai("models", "--require-signed", str(key.with_suffix(".pub"))), 2
    )


@pytest.mark.skipif(shutil.which("model_signing") is None, reason="OpenSSF's model_signing is not on the PATH")
def test_openssf_model_signing_verifies_what_a_p256_key_signed(bundle, tmp_path):
    xai("keygen", str(tmp_path / "signing"), "--type", "p256")
    xai("sign", str(bundle), "--key", str(tmp_path / "signing.key"))
    command = ["model_signing", "verify", "key", bundle, "--signature", bundle / "manifest.sig"]
    command += ["--public_key", tmp_path / "signing.pub"]
    assert subprocess.run(command, check=False).returncode == 0
    (bundle / "model.onnx").write_bytes(b"another")
    assert subprocess.run(command, check=False).returncode != 0
