"""A bundle loads as packed, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_service.errors import BundleMismatch, ModelError
from xai_service.model import bundle as bundle_module
from xai_service.model.bundle import Bundle
from xai_service.model.manifest import Feature, FileDigest, Manifest, Parity

if TYPE_CHECKING:
    from pathlib import Path

MODEL = bytes(range(256)) * 3


def make(repository: Path, name: str = "m", version: str = "1", model: bytes = MODEL) -> Path:
    manifest = Manifest(
        schema="xai.bundle/2",
        name=name,
        version=version,
        created_at="2030-01-31T12:00:00Z",
        task="regression",
        link="identity",
        link_scale=1.0,
        cover="sum_hessian",
        features=(Feature(name="x", allows_missing=False, minimum=0.0, maximum=1.0),),
        classes=(),
        threshold=None,
        favourable_class=None,
        latency_budget_ms=None,
        files={"model.onnx": FileDigest(hashlib.sha256(model).hexdigest(), len(model))},
        parity=Parity(1, 1, 1, 1, 1, 1e-5, 0.0, 0.0),
        made_by={},
    )
    path = repository / name / version
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(model)
    (path / "manifest.json").write_bytes(manifest.to_json())
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("repository"))


def test_loads_what_was_packed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(packed)
    assert (bundle.path, bundle.onnx_bytes) == (packed, MODEL)
    assert bundle.onnx_sha256 == hashlib.sha256(MODEL).digest()
    assert bundle.manifest == Manifest.parse((packed / "manifest.json").read_bytes())
    assert "files={'model.onnx': b" not in repr(bundle)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.files = {}  # type: ignore[misc]
    monkeypatch.chdir(packed.parent)
    assert Bundle.load(packed.relative_to(packed.parent)) == bundle


def test_each_file_is_opened_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = os.open

    def spy(path: Path, flags: int) -> int:
        opened.append(path.name)
        return original(path, flags)

    monkeypatch.setattr(os, "open", spy)
    Bundle.load(packed)
    assert sorted(opened) == ["manifest.json", "model.onnx"]


@settings(deadline=None)
@given(index=st.integers(0, len(MODEL) - 1), change=st.integers(1, 255))
def test_any_changed_byte_of_the_model_is_found(packed: Path, index: int, change: int) -> None:
    damaged = bytearray(MODEL)
    damaged[index] ^= change
    file = packed / "model.onnx"
    try:
        file.write_bytes(damaged)
        with pytest.raises(BundleMismatch) as error:
            Bundle.load(packed)
    finally:
        file.write_bytes(MODEL)
    message = str(error.value)
    assert str(file) in message
    assert f"expected SHA-256 {hashlib.sha256(MODEL).hexdigest()}" in message
    assert f"found {hashlib.sha256(damaged).hexdigest()}" in message


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_changed_byte_of_the_manifest_never_changes_the_model(packed: Path, data: st.DataObject) -> None:
    file = packed / "manifest.json"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        file.write_bytes(damaged)
        bundle = Bundle.load(packed)
    except ModelError as error:
        assert "manifest" in str(error) or "expected SHA-256" in str(error)  # noqa: PT017 - it may also load
    else:
        assert bundle.onnx_bytes == MODEL
        assert (bundle.manifest.name, bundle.manifest.version) == ("m", "1")
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("model", [MODEL[:-1], MODEL + b"\0", b""], ids=["shorter", "longer", "empty"])
def test_a_model_of_another_length(model: bytes, tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "model.onnx").write_bytes(model)
    with pytest.raises(BundleMismatch, match=f"of {len(model)} bytes"):
        Bundle.load(path)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "loop"])
def test_files_that_cannot_be_read(name: str, kind: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    file = path / name
    file.unlink()
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    with pytest.raises(BundleMismatch, match=name):
        Bundle.load(path)


@pytest.mark.parametrize(
    ("name", "bound"), [("model.onnx", "MAX_MODEL_BYTES"), ("manifest.json", "MAX_MANIFEST_BYTES")]
)
def test_files_that_are_too_large(name: str, bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path)
    size = (path / name).stat().st_size
    monkeypatch.setattr(bundle_module, bound, size)
    Bundle.load(path)
    monkeypatch.setattr(bundle_module, bound, size - 1)
    with pytest.raises(BundleMismatch, match=f"{name}: is larger than {size - 1} bytes"):
        Bundle.load(path)


def test_moved_bundles(tmp_path: Path) -> None:
    path = make(tmp_path)
    renamed = path.rename(path.parent / "2")
    with pytest.raises(BundleMismatch, match="of model m, version 1; expected m, version 2"):
        Bundle.load(renamed)
    (tmp_path / "other").mkdir()
    with pytest.raises(BundleMismatch, match="of model m, version 1; expected other, version 1"):
        Bundle.load(renamed.rename(tmp_path / "other" / "1"))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_links_that_leave_the_bundle(name: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleMismatch, match=f"{name}: is a symbolic link to .*elsewhere, outside the bundle"):
        Bundle.load(path)


def test_links_inside_the_bundle_and_to_it(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: each file links to ``..data``, which links to the newest directory."""
    path = make(tmp_path)
    (path / "..2030").mkdir()
    (path / "..data").symlink_to("..2030")
    for name in ("model.onnx", "manifest.json"):
        (path / name).rename(path / "..2030" / name)
        (path / name).symlink_to(f"..data/{name}")
    assert Bundle.load(path).onnx_bytes == MODEL
    (tmp_path / "store").mkdir()
    path.rename(tmp_path / "store" / "blob")
    path.symlink_to(tmp_path / "store" / "blob")
    assert Bundle.load(path).onnx_bytes == MODEL
