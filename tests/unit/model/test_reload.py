"""A repository that changes while it is served: what comes, what goes, what changes under a version that serves."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import shutil
import threading
import time
import weakref

import numpy as np
import pytest

from xai_service.errors import BundleMismatch, InvalidModel, ModelNotFound, UntrustedBundle
from xai_service.keys import PrivateKey
from xai_service.model import folder as folder_module
from xai_service.model import repository as repository_module
from xai_service.model.bundle import Bundle
from xai_service.model.folder import Stamp
from xai_service.model.manifest import FileDigest, Manifest
from xai_service.model.repository import Repository
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack.signing import sign_bundle

ROWS = np.zeros((1, 2), np.float32)
KEY = PrivateKey.generate()
TRUSTED = {KEY.public.key_id: KEY.public}


@pytest.fixture
def bundle(regression, write_bundle):
    """The bundle ``m`` 1, served by nobody yet."""
    return write_bundle(regression, "m", "1")


@pytest.fixture
def loads(monkeypatch):
    """The bundles that are read, in order."""
    read, load = [], Bundle.load
    monkeypatch.setattr(
        Bundle, "load", staticmethod(lambda path, *keys: (read.append(path.name), load(path, *keys))[1])
    )
    return read


def settle(monkeypatch):
    """Files are at once old enough for their times to be believed."""
    monkeypatch.setattr(folder_module, "_SETTLED_NS", 0)


def entry_of(repository, version="1", name="m"):
    return next(e for e in repository.entries() if (e.name, e.version) == (name, version))


def test_a_new_version_takes_over_and_the_old_one_stays(bundle, regression, write_bundle):
    repository = Repository(bundle.parents[1])
    old = repository.get("m")
    assert not repository.reload()
    write_bundle(regression, "m", "2")
    write_bundle(regression, "another", "1")
    before = time.time_ns()
    assert repository.reload()
    assert repository.get("m").manifest.version == "2"
    assert repository.get("m", "1") is old
    assert repository.get("another").manifest.name == "another"
    assert before <= entry_of(repository, "2").loaded_at_ns <= time.time_ns()


def test_a_new_version_that_cannot_be_served_does_not_take_over(bundle, caplog):
    repository = Repository(bundle.parents[1])
    bad = bundle.parent / "2"
    shutil.copytree(bundle, bad)
    assert not repository.reload()
    assert repository.get("m").manifest.version == "1"
    with pytest.raises(BundleMismatch, match="version '2' cannot be served"):
        repository.get("m", "2")
    assert "model m version 2 is not served" in caplog.text
    caplog.clear()
    assert not repository.reload()
    assert caplog.text == ""  # said once


def test_a_version_that_is_gone_is_let_go_and_requests_under_way_go_on(bundle):
    repository = Repository(bundle.parents[1])
    under_way = repository.get("m")
    here = weakref.ref(under_way)
    shutil.rmtree(bundle)
    repository.reload()
    with pytest.raises(ModelNotFound, match="no model is named 'm'"):
        repository.get("m")
    assert under_way.predict(ROWS).margin.shape == (1, 1)
    assert repository.find("m", "1", under_way.sha256) is under_way
    sha256 = under_way.sha256
    del under_way
    gc.collect()
    assert here() is None
    assert repository.find("m", "1", sha256) is None


def test_a_half_written_version_is_picked_up_when_it_is_whole(bundle, caplog):
    """By a writer that copies file by file, however the pieces fall."""
    caplog.set_level("INFO")
    repository = Repository(bundle.parents[1])
    model = (bundle / "model.onnx").read_bytes()
    manifest = (bundle / "manifest.json").read_bytes().replace(b'"version": "1"', b'"version": "2"')
    half = bundle.parent / "2"

    def looks(ready):
        repository.reload()
        assert (entry_of(repository, "2").snapshot is not None) == ready
        assert repository.get("m").manifest.version == ("2" if ready else "1")

    half.mkdir()
    looks(ready=False)
    (half / "model.onnx").write_bytes(model[:100])
    looks(ready=False)
    (half / "manifest.json").write_bytes(manifest[:-30])
    looks(ready=False)
    (half / "manifest.json").write_bytes(manifest)
    looks(ready=False)
    with (half / "model.onnx").open("ab") as file:
        file.write(model[100:-1])
        file.flush()
        looks(ready=False)
        file.write(model[-1:])
    looks(ready=True)
    assert "model m version 2 is ready" in caplog.text


def test_what_was_refused_is_not_read_again_before_it_changes(bundle, loads, monkeypatch):
    settle(monkeypatch)
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data[:-1])
    repository = Repository(bundle.parents[1])
    assert loads == ["1"]
    for _ in range(3):
        repository.reload()
    assert loads == ["1"]
    (bundle / "model.onnx").write_bytes(data)
    assert repository.reload()
    repository.reload()
    assert loads == ["1", "1"]


def test_a_disk_that_failed_is_asked_again_though_no_file_changed(bundle, monkeypatch):
    settle(monkeypatch)
    with monkeypatch.context() as patched:

        def fail(*_, **__):
            raise OSError(5, "Input/output error")

        patched.setattr("xai_service.model.bundle.os.fdopen", fail)
        repository = Repository(bundle.parents[1])
        assert "Input/output error" in str(entry_of(repository).error)
    assert repository.reload()
    assert entry_of(repository).error is None


def test_thousands_of_refused_versions_are_shown_in_one_view(bundle, monkeypatch):
    """A view for each made 10,000 empty folders cost an hour at the start, and again at each look."""
    settle(monkeypatch)
    for version in range(2, 100):
        (bundle.parent / str(version)).mkdir()
    views = []
    make = repository_module._View.__init__
    monkeypatch.setattr(
        repository_module._View, "__init__", lambda self, entries: views.append(1) or make(self, entries)
    )
    repository = Repository(bundle.parents[1])
    assert len(repository.entries()) == 99
    assert repository.get("m").manifest.version == "1"
    assert len(views) == 3  # none yet, the one that serves, the rest
    for version in range(2, 100):
        (bundle.parent / str(version)).rmdir()
    repository.reload()
    assert [entry.version for entry in repository.entries()] == ["1"]
    assert len(views) == 4


def test_a_bug_in_loading_one_bundle_does_not_keep_the_others(bundle, regression, write_bundle, monkeypatch, caplog):
    write_bundle(regression, "m", "2")
    make = ModelSnapshot.of

    def of(one):
        if one.manifest.version == "1":
            raise ZeroDivisionError("a bug")
        return make(one)

    monkeypatch.setattr(ModelSnapshot, "of", of)
    repository = Repository(bundle.parents[1])
    with pytest.raises(InvalidModel, match="failed to load, ZeroDivisionError: a bug"):
        repository.get("m", "1")
    assert repository.get("m").manifest.version == "2"
    assert "Traceback" in caplog.text


def test_the_same_bytes_again_change_nothing(bundle, loads, monkeypatch):
    settle(monkeypatch)
    repository = Repository(bundle.parents[1])
    serving = repository.get("m")
    os.utime(bundle / "model.onnx")
    repository.reload()
    copy = bundle.parent / "copy"
    shutil.copytree(bundle, copy)
    shutil.rmtree(bundle)
    copy.rename(bundle)
    repository.reload()
    assert loads == ["1"] * 3  # their digests were compared
    repository.reload()
    assert loads == ["1"] * 3
    assert repository.get("m") is serving
    assert entry_of(repository).error is None


def test_a_version_whose_files_change_goes_on_as_it_was_loaded(bundle, regression, write_bundle, caplog):
    caplog.set_level("INFO")
    repository = Repository(bundle.parents[1])
    serving, loaded_at = repository.get("m"), entry_of(repository).loaded_at_ns
    kept = bundle.parents[2] / "kept"
    bundle.rename(kept)
    regression.graph.doc_string = "another model"
    write_bundle(regression, "m", "1")
    assert not repository.reload()
    entry = entry_of(repository)
    assert (entry.snapshot, entry.loaded_at_ns) == (serving, loaded_at)
    assert "goes on serving as it was loaded" in str(entry.error)
    assert "holds another bundle now; publish it as a version of its own" in str(entry.error)
    assert repository.get("m") is repository.get("m", "1") is serving
    assert caplog.text.count("another bundle now") == 1
    repository.reload()
    assert caplog.text.count("another bundle now") == 1

    shutil.rmtree(bundle)
    kept.rename(bundle)
    repository.reload()
    assert entry_of(repository).error is None
    assert repository.get("m") is serving
    assert "its files are as they were loaded again" in caplog.text


def positions(size, count, rng):
    return range(size) if count >= size else sorted(rng.sample(range(size), count))


def test_every_flipped_byte_of_every_file_is_caught_while_the_old_snapshot_serves(bundle):
    """And by who loads it first. All of the signature, samples of the others; each message names the file."""
    (bundle / "card.md").write_bytes(b"# Model card\n" * 20)
    add_to_manifest(bundle, "card.md")
    sign_bundle(bundle, KEY)
    repository = Repository(bundle.parents[1], TRUSTED)
    serving = repository.get("m")
    rng = random.Random(11)  # noqa: S311 (a sample, no secret)
    assert sorted(path.name for path in bundle.iterdir()) == ["card.md", "manifest.json", "manifest.sig", "model.onnx"]
    for file in bundle.iterdir():
        whole = file.read_bytes()
        for i in positions(len(whole), len(whole) if file.suffix == ".sig" else 64, rng):
            flipped = bytearray(whole)
            flipped[i] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            with pytest.raises((BundleMismatch, UntrustedBundle), match=f"{bundle}/{file.name}: "):
                Bundle.load(bundle, TRUSTED)
            repository.reload()
            assert repository.get("m") is serving
            assert f"{bundle}/{file.name}: " in str(entry_of(repository).error)
        file.write_bytes(whole)
        repository.reload()
        assert entry_of(repository).error is None
    assert serving.predict(ROWS).margin.shape == (1, 1)


def add_to_manifest(bundle, name):
    """Lists a file in the manifest, as `pack` would."""
    manifest = Manifest.parse((bundle / "manifest.json").read_bytes())
    files = manifest.files | {name: FileDigest.of((bundle / name).read_bytes())}
    (bundle / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files).to_json())


def test_unsigned_unknown_and_altered_are_refused_at_load_and_at_reload(bundle, regression, write_bundle):
    sign_bundle(bundle, KEY)
    refused = {
        "2": "is not signed, and only signed bundles are served",
        "3": r"manifest\.sig: is by key .*, which is not trusted",
        "4": r"manifest\.json: is not the one that was signed",
        "5": r"manifest\.sig: does not sign the files|manifest\.json: is not the one that was signed",
    }
    repository = Repository(bundle.parents[1], TRUSTED)
    assert entry_of(repository).signed_by == KEY.public.key_id
    for version in refused:
        write_bundle(regression, "m", version)
    sign_bundle(bundle.parent / "3", PrivateKey.generate())
    sign_bundle(bundle.parent / "4", KEY)
    altered = bundle.parent / "4" / "manifest.json"
    altered.write_bytes(altered.read_bytes().replace(b"2030-01-31", b"2031-01-31"))
    shutil.copy(bundle / "manifest.sig", bundle.parent / "5")  # right key, another bundle
    repository.reload()
    for one in (repository, Repository(bundle.parents[1], TRUSTED)):
        assert one.get("m").manifest.version == "1"
        for version, reason in refused.items():
            with pytest.raises((UntrustedBundle, BundleMismatch), match=reason):
                one.get("m", version)
    sign_bundle(bundle.parent / "2", KEY)  # signed where it lies
    assert repository.reload()
    assert repository.get("m").manifest.version == "2"


def test_a_signature_is_held_to_the_files_even_where_no_key_is_trusted(bundle):
    sign_bundle(bundle, KEY)
    assert Bundle.load(bundle).signed_by is None  # nobody's word for it
    file = bundle / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"2030-01-31", b"2031-01-31"))
    with pytest.raises(BundleMismatch, match=r"manifest\.json: is not the one that was signed"):
        Bundle.load(bundle)


def test_signing_what_serves_is_no_reload(bundle):
    repository = Repository(bundle.parents[1])
    serving = repository.get("m")
    sign_bundle(bundle, KEY)
    repository.reload()
    assert repository.get("m") is serving
    assert entry_of(repository).error is None


def test_what_cannot_be_listed_stays_as_it_is(bundle, caplog, monkeypatch):
    """A mount that fails must not unload every model."""
    root = bundle.parents[1]
    repository = Repository(root)
    serving = repository.get("m")
    list_folder = repository_module.list_folder
    for broken in (root, root / "m"):

        def fail(folder, broken=broken):
            if folder == broken:
                raise OSError(116, "Stale file handle", str(folder))
            return list_folder(folder)

        with monkeypatch.context() as patched:
            patched.setattr(repository_module, "list_folder", fail)
            caplog.clear()
            for _ in range(3):
                repository.reload()
            assert caplog.text.count("Stale file handle") == 1
        assert repository.get("m") is serving
    root.rename(root.with_name("elsewhere"))
    repository.reload()
    assert repository.get("m") is serving
    root.with_name("elsewhere").rename(root)
    repository.reload()
    assert repository.get("m") is serving
    (root / "m").rename(root / ".m")
    repository.reload()
    assert repository.entries() == []


def test_versions_are_loaded_one_at_a_time_and_served_as_soon_as_ready(bundle, regression, write_bundle, monkeypatch):
    repository = Repository(bundle.parents[1])
    for version in "234":
        write_bundle(regression, "m", version)
    make, seen = ModelSnapshot.of, []

    def of(one):
        seen.append([e.version for e in repository.entries()])
        return make(one)

    monkeypatch.setattr(ModelSnapshot, "of", of)
    repository.reload(stop=lambda: len(seen) == 2)
    assert seen == [["1"], ["1", "2"]]
    assert repository.get("m").manifest.version == "3"
    repository.reload()
    assert repository.get("m").manifest.version == "4"


def test_two_looks_at_once_load_each_version_once(bundle, regression, write_bundle, loads, monkeypatch):
    repository = Repository(bundle.parents[1])
    settle(monkeypatch)
    repository.reload()
    loads.clear()
    write_bundle(regression, "m", "2")
    threads = [threading.Thread(target=repository.reload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["2"]


def test_links_that_lead_elsewhere_now_are_noticed(bundle, monkeypatch):
    """As Kubernetes updates a mounted ConfigMap: the directory behind ``..data`` is another one."""
    settle(monkeypatch)
    for folder in ("..one", "..two"):
        (bundle / folder).mkdir()
        for name in ("model.onnx", "manifest.json"):
            shutil.copy(bundle / name, bundle / folder)
    (bundle / "..data").symlink_to("..one")
    for name in ("model.onnx", "manifest.json"):
        (bundle / name).unlink()
        (bundle / name).symlink_to(f"..data/{name}")
    repository = Repository(bundle.parents[1])
    before = Stamp.of(bundle)
    assert Stamp.of(bundle).shows_no_change_since(before)
    (bundle / "..two" / "model.onnx").write_bytes(b"another")
    (bundle / "..next").symlink_to("..two")
    (bundle / "..next").rename(bundle / "..data")
    assert not Stamp.of(bundle).shows_no_change_since(before)
    repository.reload()
    assert "model.onnx: expected SHA-256" in str(entry_of(repository).error)


def test_young_files_are_not_judged_by_their_times(bundle, monkeypatch):
    young = Stamp.of(bundle)
    assert not Stamp.of(bundle).shows_no_change_since(young)
    for path in (bundle, *bundle.iterdir()):
        os.utime(path, (0, 0))
    assert not Stamp.of(bundle).settled  # the time of the change of times cannot be set back
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**10)
    old = Stamp.of(bundle)
    assert old.settled
    assert Stamp.of(bundle).shows_no_change_since(old)
