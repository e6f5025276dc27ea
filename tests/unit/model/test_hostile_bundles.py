"""Whatever lies in a repository, its folder is read in bounded time and memory, and the other models serve."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import socket
import time
import tracemalloc
import zipfile

import onnx
import pytest

from tests import forests
from xai_service.errors import BundleMismatch, InvalidModel, ModelError
from xai_service.model import folder as folder_module
from xai_service.model.manifest import FileDigest, Manifest
from xai_service.model.repository import Repository


@pytest.fixture
def good(regression, write_bundle):
    """A model that must go on serving beside the hostile one."""
    return write_bundle(regression, "good", "1")


@pytest.fixture
def bad(regression, write_bundle):
    return write_bundle(regression, "bad", "1")


def with_model(bundle, data):
    """Puts ``data`` in place of the model, with the digest right, so that only what it is can be refused."""
    manifest = Manifest.parse((bundle / "manifest.json").read_bytes())
    files = {"model.onnx": FileDigest(hashlib.sha256(data).hexdigest(), len(data))}
    (bundle / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())
    (bundle / "model.onnx").write_bytes(data)


def refusal(good):
    """Why ``bad`` is refused, at load and at reload; ``good`` must serve."""
    repository = Repository(good.parents[1])
    errors = {}
    for _ in range(2):
        assert repository.get("good").manifest.name == "good"
        with pytest.raises(ModelError) as error:
            repository.get("bad", "1")
        errors[str(error.value)] = error.value
        repository.reload()
    (one,) = errors.values()
    return one


class Payload:
    """Unpickled, it would leave a trace."""

    ran = False

    def __reduce__(self):
        return (setattr, (Payload, "ran", True))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_place_of_the_model_is_never_loaded(good, bad, protocol):
    with_model(bad, pickle.dumps(Payload(), protocol))
    error = refusal(good)
    assert isinstance(error, InvalidModel)
    if protocol >= 2:
        assert "is a Python pickle, and pickles are never loaded" in str(error)
        assert "xai pack" in str(error)
    assert not Payload.ran


def test_a_pickle_in_place_of_the_manifest(good, bad):
    (bad / "manifest.json").write_bytes(pickle.dumps(Payload()))
    assert "manifest.json: not UTF-8 JSON" in str(refusal(good))
    assert not Payload.ran


def test_truncated_models_with_their_digests_right(good, bad):
    whole = (bad / "model.onnx").read_bytes()
    for length in range(0, len(whole), 37):
        with_model(bad, whole[:length])
        refusal(good)


def test_truncated_manifests(good, bad):
    whole = (bad / "manifest.json").read_bytes()
    for length in range(0, len(whole) - 2, 53):
        (bad / "manifest.json").write_bytes(whole[:length])
        assert "manifest.json" in str(refusal(good))


def test_a_zip_of_zeros_in_place_of_the_model(good, bad):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", bytes(64 << 20))
    with_model(bad, buffer.getvalue())
    assert isinstance(refusal(good), InvalidModel)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sig"])
@pytest.mark.parametrize("size", [900 << 20, 1 << 40], ids=["900 MiB", "1 TiB"])
def test_huge_files_are_not_read(good, bad, name, size):
    """Sparse, they take no room on the disk; read, they would fill the memory."""
    with (bad / name).open("ab") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        error = refusal(good)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"{name}: " in str(error)
    assert peak < 32 << 20


def test_cyclic_trees(good, bad, regression):
    (node,) = (one for one in regression.graph.node if one.op_type == "TreeEnsembleRegressor")
    (children,) = (one for one in node.attribute if one.name == "nodes_truenodeids")
    children.ints[0] = 0  # the root is its own child
    with_model(bad, regression.SerializeToString())
    assert isinstance(refusal(good), InvalidModel)


def test_a_small_file_that_claims_a_huge_ensemble(good, bad):
    attributes = forests.ensemble_attributes([("leaf", 1.0, 1.0)], 2)
    attributes["nodes_nodeids"] = [1 << 62] * len(attributes["nodes_nodeids"])
    model = forests.onnx_model(attributes, 2)
    with_model(bad, model.SerializeToString())
    assert isinstance(refusal(good), InvalidModel)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sig", "card.md"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "loop", "dangling", "device", "away"])
def test_what_is_no_file_of_the_bundle(good, bad, name, kind, tmp_path, monkeypatch):
    path = bad / name
    path.unlink(missing_ok=True)
    if name == "card.md":
        manifest = Manifest.parse((bad / "manifest.json").read_bytes())
        files = manifest.files | {name: FileDigest.of(b"card")}
        (bad / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(bad)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
    elif kind == "away":
        (tmp_path / "secret").write_bytes(b"card")
        path.symlink_to(tmp_path / "secret")
    else:
        path.symlink_to({"loop": name, "dangling": "nowhere", "device": "/dev/zero"}[kind])
    started = time.monotonic()
    error = refusal(good)
    assert f"{bad}/{name}: " in str(error)
    assert isinstance(error, BundleMismatch)
    assert "secret" not in str(error) or "outside the bundle" in str(error)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("entry", ["notes.txt", "model.onnx~", "model.pkl", "subfolder/", "\n\x1b[2J", "\udcff"])
def test_what_the_manifest_does_not_list_is_refused_by_name(good, bad, entry):
    path = bad / entry
    if entry.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    error = refusal(good)
    assert f"holds {entry.rstrip('/')!a}, not listed in its manifest" in str(error)
    assert str(error).isprintable()
    path.rmdir() if entry.endswith("/") else path.unlink()
    Repository(good.parents[1]).get("bad")


def test_a_file_that_is_listed_and_not_there(good, bad):
    manifest = Manifest.parse((bad / "manifest.json").read_bytes())
    files = manifest.files | {"background.npz": FileDigest.of(b"rows")}
    (bad / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())
    assert "background.npz: cannot be read" in str(refusal(good))
    (bad / "background.npz").write_bytes(b"rows")
    assert Repository(good.parents[1]).get("bad").manifest.files == files


def test_a_manifest_of_a_million_files(good, bad):
    manifest = json.loads((bad / "manifest.json").read_bytes())
    digest = manifest["files"]["model.onnx"]
    manifest["files"] |= {str(i): digest for i in range(50_000)}
    (bad / "manifest.json").write_text(json.dumps(manifest))
    assert "files: has 50001 entries; at most 32 are accepted" in str(refusal(good))


def test_a_bundle_with_too_many_entries(good, bad):
    for i in range(folder_module.MAX_ENTRIES):
        (bad / f".{i}").touch()
    assert f"holds more than {folder_module.MAX_ENTRIES} entries" in str(refusal(good))


def test_a_listing_ends_at_its_bound(tmp_path, monkeypatch):
    """Of a folder with a million entries, no more are looked at than are accepted."""
    seen = []

    class Million:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            for i in range(1_000_000):
                seen.append(i)
                yield type("Entry", (), {"name": str(i)}) if i < 1 else entry

    entry = type("Entry", (), {"name": "x"})
    monkeypatch.setattr(folder_module.os, "scandir", lambda _: Million())
    with pytest.raises(BundleMismatch, match="holds more than 10000 entries"):
        folder_module.list_folder(tmp_path)
    assert len(seen) == folder_module.MAX_ENTRIES + 1


def test_a_model_or_a_repository_with_too_many_entries(good, monkeypatch, caplog):
    root = good.parents[1]
    repository = Repository(root)
    monkeypatch.setattr(folder_module, "MAX_ENTRIES", 5)
    for i in range(6):
        (root / "crowd" / str(i)).mkdir(parents=True)
    repository.reload()
    assert "crowd cannot be listed" in caplog.text
    assert [entry.name for entry in repository.entries()] == ["good"]
    for i in range(6):
        (root / f"crowd{i}").mkdir()
    repository.reload()
    assert repository.get("good").manifest.name == "good"
    with pytest.raises(BundleMismatch, match="holds more than 5 entries"):
        Repository(root)


def test_too_many_versions_in_all(good, monkeypatch, caplog):
    root = good.parents[1]
    monkeypatch.setattr("xai_service.model.repository.MAX_ENTRIES", 4)
    for name in ("a", "b"):
        for version in "123":
            (root / name / version).mkdir(parents=True)
    repository = Repository(root)
    assert [(e.name, e.version) for e in repository.entries()] == [("a", "1"), ("a", "2"), ("a", "3"), ("good", "1")]
    assert "b cannot be listed: with it there would be more than 4 versions" in caplog.text


def test_what_is_refused_leaves_its_reason_only(good, bad):
    """An error's traceback would hold the bytes of the file for as long as the entry is listed."""
    with_model(bad, b"no model")
    repository = Repository(good.parents[1])
    for _ in range(2):
        error = next(entry.error for entry in repository.entries() if entry.name == "bad")
        assert error.__traceback__ is error.__cause__ is error.__context__ is None
        repository.reload()


def test_onnx_bytes_that_are_not_a_model(good, bad):
    for data in (b"", b"\x08", b"\x08\x0a" * 1000, onnx.TensorProto().SerializeToString(), os.urandom(4096)):
        with_model(bad, data)
        refusal(good)
