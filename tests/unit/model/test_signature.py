"""A signature file says one thing in one way: any other byte in it is found."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.errors import BundleMismatch, ModelError, UntrustedBundle
from xai_service.keys import PrivateKey
from xai_service.model.signature import Signature, sign

DIGESTS = {"model.onnx": "ab" * 32, "manifest.json": "cd" * 32, "background.npz": "01" * 32}


@pytest.fixture(scope="module", params=["ed25519", "p256"])
def key(request):
    return PrivateKey.generate(request.param)


def trust(*keys):
    return {key.public.key_id: key.public for key in keys}


def test_what_was_signed_is_read_and_verified(key):
    signature = Signature.parse(sign(key, "loan/1", DIGESTS))
    assert signature.digests == DIGESTS
    assert signature.key_id == key.public.key_id
    signature.verify(trust(PrivateKey.generate(), key))


def test_no_other_key_will_do(key):
    signature = Signature.parse(sign(key, "loan/1", DIGESTS))
    other = PrivateKey.generate()
    with pytest.raises(UntrustedBundle, match=f"by key {key.public.key_id[:12]}, which is not trusted; trusted are: "):
        signature.verify(trust(other))
    with pytest.raises(UntrustedBundle, match="it was altered"):
        signature.verify({key.public.key_id: other.public})


def test_it_is_the_statement_of_openssf_model_signing(key):
    """The fields and their order of meaning as model_signing 1.1 reads them; it verified such files (docs/adr/0009)."""
    bundle = json.loads(sign(key, "loan/1", DIGESTS))
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    material = {"publicKey": {"hint": hashlib.sha256(key.public.pem).hexdigest()}, "tlogEntries": []}
    assert bundle["verificationMaterial"] == material
    envelope = bundle["dsseEnvelope"]
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    names = sorted(DIGESTS)
    root = hashlib.sha256(b"".join(bytes.fromhex(DIGESTS[name]) for name in names)).hexdigest()
    assert statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "loan/1", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["manifest.sig"],
            },
            "resources": [{"name": name, "algorithm": "sha256", "digest": DIGESTS[name]} for name in names],
        },
    }
    (signature,) = envelope["signatures"]
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    assert key.public.verifies(base64.b64decode(signature["sig"]), signed)


def test_every_flipped_byte_is_found(key):
    data = sign(key, "loan/1", DIGESTS)
    keys = trust(key)
    rng = random.Random(5)  # noqa: S311 (which bits, no secret)
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 1 << rng.randrange(8)
        with pytest.raises(ModelError, match=r"^manifest\.sig: "):
            Signature.parse(bytes(flipped)).verify(keys)


@pytest.mark.parametrize("hint", ["\n2030 INFO forged", "\x1b]0;x\x07", "A" * 64, "", 7, None, ["ab"] * 32])
def test_the_key_that_it_names_is_an_id(key, hint):
    """What it names is shown to people and logged, before anything is verified."""
    bundle = json.loads(sign(key, "loan/1", DIGESTS))
    bundle["verificationMaterial"]["publicKey"]["hint"] = hint
    data = (json.dumps(bundle, separators=(",", ":")) + "\n").encode()
    with pytest.raises(BundleMismatch, match=r"^manifest\.sig: is no signature as `xai sign` writes it"):
        Signature.parse(data)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\n", lambda d: b" " + d, lambda d: d * 2])
def test_neither_more_nor_less(key, change):
    with pytest.raises(BundleMismatch, match=r"manifest\.sig: is "):
        Signature.parse(change(sign(key, "loan/1", DIGESTS)))


def test_bits_of_base64_that_decode_to_nothing():
    """Decoders drop some bits of the last character before padding: with others there the signature would verify."""
    key = PrivateKey.generate()
    data = sign(key, "loan/1", DIGESTS)
    text = json.loads(data)["dsseEnvelope"]["signatures"][0]["sig"]
    assert text.endswith("==")
    twins = [text[:-3] + character + "==" for character in string.ascii_letters + string.digits + "+/"]
    twins = [twin for twin in twins if twin != text and base64.b64decode(twin) == base64.b64decode(text)]
    assert len(twins) == 15
    for twin in twins:
        with pytest.raises(BundleMismatch, match="byte for byte"):
            Signature.parse(data.replace(text.encode(), twin.encode()))


def envelope(payload, **changes):
    fields = {"payload": base64.b64encode(payload).decode(), "payloadType": "application/vnd.in-toto+json"}
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {**fields, "signatures": [{"sig": "", "keyid": ""}]},
    }
    return json.dumps(bundle | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
        envelope(b"{}"),
        envelope(b"[]"),
        envelope(b"\xff"),
        envelope(b"[" * 30_000),
        envelope(b'{"subject":[{"name":1}],"predicate":{"resources":[{"name":[],"digest":"00"}]}}'),
        envelope(b'{"subject":[{"name":1}],"predicate":{"resources":[{"name":"a","digest":5}]}}'),
        envelope(b"{}", dsseEnvelope=5),
        envelope(b"{}", verificationMaterial={"publicKey": {"hint": []}}),
        b"\x80\x04\x95pickle.",
    ],
)
def test_hostile_files(data):
    with pytest.raises(BundleMismatch, match=r"^manifest\.sig: is no"):
        Signature.parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused(data):
    with pytest.raises(BundleMismatch):
        Signature.parse(data)
