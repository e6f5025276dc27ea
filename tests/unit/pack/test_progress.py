"""The bar: where it is shown, what it says, and that it ends."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from xai_service.errors import PackRefused
from xai_service.pack import pack

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def packed(folder: Path, **options: Any) -> None:
    pack(LinearRegression().fit(X, X.sum(axis=1)), X, name="m", out=folder, **options)


@pytest.fixture
def no_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def test_a_script_is_told_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed(tmp_path)
    packed(tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("no_tqdm")
@pytest.mark.parametrize("where", ["notebook", "prompt", "asked for"])
def test_a_line_where_tqdm_is_not_installed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if where == "notebook":
        monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
    elif where == "prompt":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    packed(tmp_path, **({"progress": True} if where == "asked for" else {}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "\rpack: read" in err
    assert "pack: prove" in err
    assert err.endswith("] 100%\n")


@pytest.mark.filterwarnings("ignore::tqdm.TqdmWarning")
def test_tqdms_bar_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="the bar is tqdm's only where it is installed")
    packed(tmp_path, progress=True)
    assert "pack: done: 100%" in capsys.readouterr().err


@pytest.mark.usefixtures("no_tqdm")
def test_the_line_ends_when_packing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PackRefused, match="covers"):
        packed(tmp_path, progress=True, covers="count")
    assert capsys.readouterr().err.endswith("\n")


def test_a_function_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    packed(tmp_path, progress=lambda stage, share: told.append((stage, share)))
    assert told[0] == ("read", 0.0)
    assert told[-1] == ("done", 1.0)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackRefused, match="progress: must be True, False or a function, is 'yes'"):
        packed(tmp_path, progress="yes")
