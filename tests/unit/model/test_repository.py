"""A repository serves the highest version of each model, whatever else lies in its folder."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.errors import BundleMismatch, InvalidModel, ModelNotFound
from xai_service.model.folder import list_folder
from xai_service.model.repository import Repository, version_key

if TYPE_CHECKING:
    from collections.abc import Callable

ASCENDING = [
    "rc",  # text alone is below all numbers
    "0.9",
    "1",
    "1.0",
    "1.1",
    "1.9",
    "1.10",
    "1.10.1",
    "2",
    "2.0-rc1",
    "2.0-rc2",
    "2.0-rc10",
    "10",
    "2024.01.31",
    "20240131",
]


def test_versions_ascend_as_people_read_them() -> None:
    shuffled = random.Random(3).sample(ASCENDING, len(ASCENDING))  # noqa: S311 (an order, no secret)
    assert sorted(shuffled, key=version_key) == ASCENDING


@given(st.lists(st.text(max_size=6), max_size=5))
def test_any_text_has_a_place(texts: list[str]) -> None:
    ordered = sorted([*texts, "²", "٣", "1²", ""], key=version_key)
    keys = [version_key(text) for text in ordered]
    assert all(a <= b for a, b in itertools.pairwise(keys))


def test_the_highest_version_serves_unless_pinned(
    regression: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    for version in ("9", "10", "9.5", "beta"):
        folder = write_bundle(regression, "loan", version)
    write_bundle(regression, "another", "1")
    repository = Repository(folder.parents[1])
    assert [(e.name, e.version) for e in repository.entries()] == [
        ("another", "1"),
        ("loan", "beta"),
        ("loan", "9"),
        ("loan", "9.5"),
        ("loan", "10"),
    ]
    assert all(entry.error is None for entry in repository.entries())
    assert repository.get("loan").manifest.version == "10"
    assert repository.get("loan", "9.5").manifest.version == "9.5"
    assert repository.get("loan", "9") is repository.get("loan", "9")


def test_what_is_not_there_is_named(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    repository = Repository(write_bundle(regression, "loan", "2").parents[1])
    with pytest.raises(ModelNotFound, match="no model is named 'lone'; there are: 'loan'"):
        repository.get("lone")
    assert repository.identify("lone") is None
    assert repository.identify("loan", "1") is None
    assert repository.identify("loan", "2") == ("loan", "2")
    for version in ("1", "02", "", "../2", "2/"):
        with pytest.raises(ModelNotFound, match=r"has no version .*; there are: '2'"):
            repository.get("loan", version)


def test_a_broken_bundle_stops_no_other(
    regression: onnx.ModelProto, write_bundle: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    good = write_bundle(regression, "loan", "1")
    damaged = write_bundle(regression, "loan", "2")
    (damaged / "model.onnx").write_bytes(b"damaged")
    (good.parents[1] / "loan" / "3").mkdir()
    (good.parents[1] / "empty").mkdir()
    (good.parents[1] / "README.md").write_text("not a model")
    repository = Repository(good.parents[1])
    assert [(e.version, type(e.error)) for e in repository.entries()] == [
        ("1", type(None)),
        ("2", BundleMismatch),
        ("3", BundleMismatch),
    ]
    assert repository.get("loan", "1").manifest.version == "1"
    with pytest.raises(BundleMismatch, match=r"model 'loan' version '2' cannot be served: .*expected SHA-256"):
        repository.get("loan", "2")
    with pytest.raises(BundleMismatch, match="version '3' cannot be served"):
        repository.get("loan", "3")
    assert repository.get("loan").manifest.version == "1"  # a bad push does not take the model down
    assert repository.identify("loan") == ("loan", "1")
    assert repository.identify("loan", "2") == ("loan", "2")  # it is there, if not served
    (damaged.parents[1] / "ill" / "1").mkdir(parents=True)
    (damaged.parents[1] / "ill" / "2").mkdir()
    with pytest.raises(BundleMismatch, match="model 'ill' version '2' cannot be served"):
        Repository(good.parents[1]).get("ill")
    with pytest.raises(ModelNotFound, match="no model is named 'empty'"):
        repository.get("empty")
    assert "model loan version 2 is not served" in caplog.text


def test_folders_whose_names_no_model_has(regression: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    folder = write_bundle(regression, "loan", "1")
    root = folder.parents[1]
    for name in (".git", "..data", "__pycache__", "lost+found", "²", "a b", "\udcff"):
        (root / name / "1").mkdir(parents=True)
        (root / "loan" / name).mkdir()
    assert [(e.name, e.version) for e in Repository(root).entries()] == [("loan", "1")]


def test_symbolic_links(regression: onnx.ModelProto, write_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_bundle(regression, "loan", "1")
    root = folder.parents[1]
    (root / "loan" / "2").symlink_to(folder)  # another version's bundle
    (root / "alias").symlink_to(root / "loan")  # another model's bundles
    (root / "loop").symlink_to(root / "loop")
    (root / "loan" / "up").symlink_to("..")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "loan" / "4").mkdir()
    for name in ("model.onnx", "manifest.json"):
        (root / "loan" / "4" / name).symlink_to(folder / name)  # leaves its bundle
    repository = Repository(root)
    assert {(e.name, e.version) for e in repository.entries() if e.snapshot} == {("loan", "1")}
    with pytest.raises(BundleMismatch, match="the manifest is of model loan, version 1; expected loan, version 2"):
        repository.get("loan", "2")
    with pytest.raises(BundleMismatch, match="expected alias, version 1"):
        repository.get("alias", "1")
    with pytest.raises(BundleMismatch, match="outside the bundle"):
        repository.get("loan", "4")

    (tmp_path / "linked").symlink_to(root)
    assert Repository(tmp_path / "linked").get("loan", "1").sha256 == repository.get("loan", "1").sha256


def test_folders_that_cannot_be_listed(
    regression: onnx.ModelProto,
    write_bundle: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = write_bundle(regression, "loan", "1").parents[1]
    (root / "aaa" / "1").mkdir(parents=True)

    def refuse_aaa(path: Path):
        if path.name == "aaa":
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr("xai_service.model.repository.list_folder", refuse_aaa)
    repository = Repository(root)
    assert repository.get("loan").manifest.version == "1"
    assert "aaa cannot be listed: " in caplog.text


def test_a_bundle_that_fails_in_an_unforeseen_way_of_the_disk(
    regression: onnx.ModelProto, write_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bundle(regression, "loan", "1").parents[1]

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("xai_service.model.repository.ModelSnapshot.of", fail)
    with pytest.raises(InvalidModel, match=r"version '1' cannot be served: cannot be read: .*Input/output error"):
        Repository(root).get("loan")


def test_repositories_that_are_none(tmp_path: Path) -> None:
    assert Repository(tmp_path).entries() == []
    with pytest.raises(ModelNotFound, match="no model is named 'm'; there are: none"):
        Repository(tmp_path).get("m")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nothing", tmp_path / "file" / "below"):
        with pytest.raises(ModelNotFound, match="is not a folder; `xai pack` makes one"):
            Repository(path)


def test_a_repository_does_not_change_before_it_looks_again(
    regression: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    root = write_bundle(regression, "loan", "1").parents[1]
    repository = Repository(root)
    write_bundle(regression, "loan", "2")
    assert repository.get("loan").manifest.version == "1"
    assert Repository(root).get("loan").manifest.version == "2"
