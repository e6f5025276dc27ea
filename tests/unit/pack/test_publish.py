"""A bundle appears whole or not at all, under the next version, and never over another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from xai_service.errors import PackRefused
from xai_service.pack.publish import destination, publish

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"model.onnx": b"model", "manifest.json": b"{}"}


def test_next_version(tmp_path: Path) -> None:
    assert destination(tmp_path, "m", None) == tmp_path / "m" / "1"
    for taken in ("2", "10", "009", "v99", ".11.draft", "1.5", "²"):
        (tmp_path / "m" / taken).mkdir(parents=True)
    assert destination(tmp_path, "m", None).name == "11"
    assert destination(tmp_path, "m", "v100").name == "v100"


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_version_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m" / "1"
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.touch()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(PackRefused, match="exists already"):
        destination(tmp_path, "m", "1")


def test_files_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m" / "1"
    publish(path, FILES)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == FILES
    assert [entry.name for entry in path.parent.iterdir()] == ["1"]


def test_a_faster_rival_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m" / "1"
    publish(path, {"model.onnx": b"rival"})
    with pytest.raises(PackRefused, match="exists already"):
        publish(path, FILES)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {"model.onnx": b"rival"}
    assert [entry.name for entry in path.parent.iterdir()] == ["1"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_nothing(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(PackRefused, match="No space left"):
        publish(tmp_path / "m" / "1", FILES)
    assert list((tmp_path / "m").iterdir()) == []


def test_drafts_are_hidden_until_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    original = os.fsync

    def spy(descriptor: int) -> None:
        seen.append([entry.name for entry in (tmp_path / "m").iterdir()])
        original(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    publish(tmp_path / "m" / "1", FILES)
    *before, after = seen
    assert len(before) == len(FILES) + 1
    assert all(len(names) == 1 and names[0].startswith(".") for names in before)
    assert after == ["1"]
