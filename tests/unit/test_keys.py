"""Keys sign and verify, are written once and privately, and what is no usable key is refused by name."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from xai_service.errors import InvalidKey
from xai_service.keys import PrivateKey, PublicKey, load_trusted

KINDS = ("ed25519", "p256")


@pytest.fixture(scope="module", params=KINDS)
def key(request):
    return PrivateKey.generate(request.param)


def test_only_this_key_and_this_message(key):
    signature = key.sign(b"message")
    assert key.public.verifies(signature, b"message")
    assert not key.public.verifies(signature, b"messagf")
    assert not PrivateKey.generate().public.verifies(signature, b"message")
    assert not PrivateKey.generate("p256").public.verifies(signature, b"message")
    for cut in (b"", signature[:-1], signature + b"\0"):
        assert not key.public.verifies(cut, b"message")
    for i in range(len(signature)):
        flipped = bytearray(signature)
        flipped[i] ^= 1
        assert not key.public.verifies(bytes(flipped), b"message"), i


def test_saved_and_loaded(key, tmp_path):
    private, public = key.save(tmp_path / "signing.v1")
    assert (private, public) == (tmp_path / "signing.v1.key", tmp_path / "signing.v1.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    loaded = PublicKey.load(public)
    assert loaded == key.public
    assert loaded.key_id == hashlib.sha256(public.read_bytes()).hexdigest()
    assert loaded.verifies(PrivateKey.load(private).sign(b"m"), b"m")
    assert str(public) not in repr(key)


@pytest.mark.parametrize("suffix", [".key", ".pub"])
def test_no_key_is_overwritten(key, tmp_path, suffix):
    there = tmp_path / f"signing{suffix}"
    there.symlink_to("nowhere")
    with pytest.raises(InvalidKey, match=f"signing{suffix} exists already"):
        key.save(tmp_path / "signing")
    assert list(tmp_path.iterdir()) == [there]  # nothing half done


def test_passphrases(key, tmp_path):
    private, _ = key.save(tmp_path / "signing", b"correct horse")
    assert b"ENCRYPTED" in private.read_bytes()
    assert PrivateKey.load(private, lambda: b"correct horse").public == key.public
    with pytest.raises(InvalidKey, match="or the passphrase is wrong"):
        PrivateKey.load(private, lambda: b"wrong horse")
    with pytest.raises(InvalidKey, match="is protected by a passphrase, and none was given"):
        PrivateKey.load(private)
    open_key, _ = key.save(tmp_path / "open")
    assert PrivateKey.load(open_key, lambda: pytest.fail("asked for nothing")).public == key.public


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "other",
    [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()), ed448.Ed448PrivateKey.generate()],
    ids=["rsa", "p384", "ed448"],
)
def test_keys_of_other_kinds(other, tmp_path):
    (tmp_path / "private").write_bytes(pem(other))
    (tmp_path / "public").write_bytes(public_pem(other))
    with pytest.raises(InvalidKey, match="private: is a key of another kind; Ed25519 and"):
        PrivateKey.load(tmp_path / "private")
    with pytest.raises(InvalidKey, match="public: is a key of another kind; Ed25519 and"):
        PublicKey.load(tmp_path / "public")


GOOD = PrivateKey.generate().public.pem
BAD_PUBLIC = {
    "empty": (b"", "must hold one public key"),
    "two": (GOOD + GOOD, "several keys are several files"),
    "private": (pem(ec.generate_private_key(ec.SECP256R1())), "is a private key; give the public one"),
    "no PEM": (os.urandom(100), "must hold one public key"),
    "no key in PEM": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key as PEM"),
    "large": (GOOD + b"\n" * (16 << 10), "larger than 16384 bytes"),
}


@pytest.mark.parametrize("case", BAD_PUBLIC)
def test_what_is_no_public_key(case, tmp_path):
    data, message = BAD_PUBLIC[case]
    path = tmp_path / "key.pub"
    path.write_bytes(data)
    with pytest.raises(InvalidKey, match=message) as error:
        load_trusted([path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("load", [PublicKey.load, PrivateKey.load])
def test_what_cannot_be_read(load, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop", "missing", "."):
        with pytest.raises(InvalidKey, match=r"not a regular file|cannot be read"):
            load(tmp_path / name)
    (tmp_path / "text").write_text("a diary")
    with pytest.raises(InvalidKey, match="text: "):
        load(tmp_path / "text")


def test_trusted_keys_from_files_and_folders(tmp_path):
    keys = [PrivateKey.generate(kind) for kind in (*KINDS, "ed25519")]
    (tmp_path / "keys").mkdir()
    keys[0].save(tmp_path / "keys" / "a")
    (tmp_path / "keys" / "b.pem").write_bytes(keys[1].public.pem)
    (tmp_path / "keys" / ".c.pub").write_text("a draft")
    (tmp_path / "keys" / "README").write_text("no key")
    _, file = keys[2].save(tmp_path / "c")
    trusted = load_trusted([tmp_path / "keys", file, file])
    assert trusted == {key.public.key_id: key.public for key in keys}
    assert load_trusted([]) == {}
    (tmp_path / "keys" / "d.pub").write_text("nonsense")
    with pytest.raises(InvalidKey, match=r"d\.pub"):
        load_trusted([tmp_path / "keys"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidKey, match="holds no public key"):
        load_trusted([tmp_path / "none"])


def test_a_folder_of_too_many_keys(tmp_path: Path):
    for i in range(1001):
        (tmp_path / f"{i}.pub").touch()
    with pytest.raises(InvalidKey, match="more than 1000 keys"):
        load_trusted([tmp_path])
