"""What packing finds out by itself: the rows' digest, the code, what the library tells and can be believed of."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost

from xai_service.errors import PackRefused
from xai_service.model.bundle import Bundle
from xai_service.model.provenance import Code, FeatureFacts, Provenance
from xai_service.pack import code_revision, pack
from xai_service.pack.code_revision import read_code
from xai_service.pack.provenance import digest_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array

    Train = Callable[..., xgboost.Booster]


def packed(model: Any, X: Float32Array, out: Path, **stated: Any) -> Provenance:
    return Bundle.load(pack(model, X, name="m", out=out, **stated)).manifest.provenance


# rows


def test_the_digest_can_be_recomputed(X: Float32Array) -> None:
    values = X.copy()
    values[np.isnan(values)] = np.array([0x7FC00000], np.uint32).view(np.float32)
    found = digest_rows(X)
    assert (found.method, found.row_count) == ("sha256-float32le", 400)
    assert found.sha256 == hashlib.sha256(b"".join(value.tobytes() for value in values.ravel())).hexdigest()


def test_the_digest_does_not_depend_on_which_nan(X: Float32Array) -> None:
    other = X.copy()
    other[np.isnan(other)] = np.array([0xFFC12345], np.uint32).view(np.float32)
    assert digest_rows(other) == digest_rows(X)
    other[0, 4] += 1
    assert digest_rows(other).sha256 != digest_rows(X).sha256
    assert digest_rows(X[::-1]).sha256 != digest_rows(X).sha256


def test_the_digest_of_many_rows() -> None:
    many = np.arange(3 << 20, dtype=np.float32).reshape(-1, 3)
    assert digest_rows(many).sha256 == hashlib.sha256(many.astype("<f4").tobytes()).hexdigest()


# hyper-parameters

SETTINGS = {"eta": 0.02, "max_depth": 3, "subsample": 0.8, "gamma": 0.25, "seed": 5, "max_bin": 64}
TOLD = {"learning_rate": 0.02, "max_depth": 3, "subsample": 0.8, "gamma": 0.25, "random_state": 5, "max_bin": 64}
KEPT = {"booster": "gbtree", "objective": "binary:logistic", "num_boost_round": 12, "num_parallel_tree": 1}


def test_a_model_in_memory_tells_its_settings(X: Float32Array, train: Train, tmp_path: Path) -> None:
    found = packed(train(**SETTINGS), X, tmp_path).hyper_parameters
    assert found == {**TOLD, **KEPT, "scale_pos_weight": 1}


def test_a_file_keeps_none_and_none_are_made_up(X: Float32Array, train: Train, tmp_path: Path) -> None:
    """XGBoost shows its defaults in their place: a learning rate of 0.3, depth 6."""
    path = tmp_path / "m.ubj"
    train(**SETTINGS, monotone_constraints=(1, 0, 0, 0, -1)).save_model(path)
    shown = json.loads(xgboost.Booster(model_file=path).save_config())["learner"]["gradient_booster"]
    assert float(shown["tree_train_param"]["learning_rate"]) == pytest.approx(0.3)
    found = packed(path, X, tmp_path)
    assert found.hyper_parameters == {**KEPT, "scale_pos_weight": 1}
    assert found.features == {}


def test_what_only_some_models_have(X: Float32Array, signal: Float64Array, train: Train, tmp_path: Path) -> None:
    dart = packed(train(booster="dart", rate_drop=0.3, num_parallel_tree=2), X, tmp_path).hyper_parameters
    assert (dart["booster"], dart["rate_drop"], dart["num_parallel_tree"]) == ("dart", 0.3, 2)
    tweedie = packed(train(objective="reg:tweedie", tweedie_variance_power=1.3), X, tmp_path).hyper_parameters
    assert tweedie["tweedie_variance_power"] == 1.3
    estimator = xgboost.XGBRegressor(n_estimators=50, early_stopping_rounds=2, learning_rate=0.9, reg_alpha=2)
    estimator.fit(X, signal, eval_set=[(X[::-1], signal)], verbose=False)
    found = packed(estimator, X, tmp_path).hyper_parameters
    assert (found["n_estimators"], found["early_stopping_rounds"], found["reg_alpha"]) == (50, 2, 2)
    assert found["num_boost_round"] == estimator.best_iteration + 1 < 50


def test_statements_add_to_what_the_model_tells_and_may_not_contradict_it(
    X: Float32Array, train: Train, tmp_path: Path
) -> None:
    stated = {"hyper_parameters": {"max_depth": 3, "tuned_by": "hand"}}
    assert packed(train(max_depth=3), X, tmp_path, provenance=stated).hyper_parameters["tuned_by"] == "hand"
    with pytest.raises(PackRefused, match=r"hyper_parameters\.max_depth is stated as 3, the model itself says 2"):
        packed(train(max_depth=2), X, tmp_path, provenance=stated)


# monotonicity


def test_monotone_constraints_are_told_and_proven(X: Float32Array, train: Train, tmp_path: Path) -> None:
    features = packed(train(20, monotone_constraints=(1, 0, -1)), X, tmp_path).features
    assert {name: (one.monotonicity, one.is_monotonicity_proven) for name, one in features.items()} == {
        "f0": (1, True), "f1": (0, None), "f2": (-1, True), "f3": (0, None), "f4": (0, None),
    }  # fmt: skip


def test_a_stated_direction_is_held_against_the_trees(X: Float32Array, train: Train, tmp_path: Path) -> None:
    path = tmp_path / "m.ubj"
    train(20, monotone_constraints=(1, 0, 0, 0, 0)).save_model(path)
    features = packed(path, X, tmp_path, features={"f0": {"monotonicity": 1}, "f1": {"monotonicity": 1}}).features
    assert features["f0"].is_monotonicity_proven is True
    assert features["f1"].is_monotonicity_proven is False
    constrained = train(20, monotone_constraints=(1, 0, 0, 0, 0))
    with pytest.raises(PackRefused, match=r"features\.f0\.monotonicity is stated as -1, the model itself says 1"):
        packed(constrained, X, tmp_path, features={"f0": FeatureFacts(monotonicity=-1)})


# code


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "t@example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "--quiet")
    return folder


def test_code_is_read_from_git(work_tree: Path) -> None:
    assert read_code(work_tree) is None  # before the first commit
    (work_tree / "train.py").write_text("1")
    git(work_tree, "add", ".")
    git(work_tree, "commit", "--quiet", "-m", "Train")
    revision = git(work_tree, "rev-parse", "HEAD").strip()
    assert read_code(work_tree) == Code(revision, is_dirty=False, source="git")
    (work_tree / "rows.csv").write_text("data, not code")
    assert read_code(work_tree) == Code(revision, is_dirty=False, source="git")
    (work_tree / "train.py").write_text("2")
    assert read_code(work_tree) == Code(revision, is_dirty=True, source="git")
    git(work_tree, "add", ".")
    assert read_code(work_tree) == Code(revision, is_dirty=True, source="git")


def test_without_git_there_is_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_code(tmp_path) is None  # no work tree
    assert read_code(tmp_path / "gone") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_code(tmp_path) is None  # no git


def test_a_git_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text(f"#!/bin/sh\n/bin/sleep 3\necho {'0' * 40}\n")  # the sleep outlives its shell
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(code_revision, "_TIMEOUT_S", 0.1)
    started = time.monotonic()
    assert read_code(tmp_path) is None
    assert time.monotonic() - started < 2


def test_packing_reads_the_code_around_it(
    X: Float32Array, booster: xgboost.Booster, work_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work_tree)
    assert packed(booster, X, work_tree).code is None
    git(work_tree, "commit", "--quiet", "--allow-empty", "-m", "Begin")
    found = packed(booster, X, work_tree).code
    assert found is not None
    assert (found.source, found.is_dirty) == ("git", False)
    stated = packed(booster, X, work_tree, provenance={"code": {"revision": "v1.2"}}).code
    assert stated == Code("v1.2", None, "statement")
