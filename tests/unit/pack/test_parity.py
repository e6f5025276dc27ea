"""The gate refuses each silent conversion error that it exists for, and shows the row that proves it."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost

from xai_service.errors import PackRefused
from xai_service.pack import onnx_writer, pack, parity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.pack.forest import Tree
    from xai_service.types import Float32Array

    Train = Callable[..., xgboost.Booster]

ROW = r"; the row: .*f0=\S+.* Nothing was written\."
MARGINS = r"margin native -?[\d.e+-]+, ONNX -?[\d.e+-]+"


def change_tree(number: int, **changes: Callable[[Tree], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(arguments: dict[str, Any]) -> None:
        trees = list(arguments["trees"])
        tree = trees[number]
        trees[number] = dataclasses.replace(tree, **{name: change(tree) for name, change in changes.items()})
        arguments["trees"] = trees

    return apply


def set_argument(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arguments: arguments.update(changes)


def one_step(towards: float) -> Callable[[Tree], Float32Array]:
    """Moves the root's threshold by one float32 step."""

    def move(tree: Tree) -> Float32Array:
        threshold = tree.threshold.copy()
        threshold[0] = np.nextafter(threshold[0], np.float32(towards))
        return threshold

    return move


@pytest.fixture
def broken_writer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Returns a function that lets another one change what the writer is told to write."""
    original = onnx_writer.write_onnx

    def install(change: Callable[[dict[str, Any]], None]) -> None:
        def write(trees: Any, **arguments: Any) -> bytes:
            told = {"trees": trees, **arguments}
            change(told)
            return original(told.pop("trees"), **told)

        monkeypatch.setattr(onnx_writer, "write_onnx", write)

    return install


@pytest.mark.parametrize(
    "change",
    [
        change_tree(3, threshold=lambda tree: tree.threshold.round(2)),
        change_tree(3, threshold=one_step(np.inf)),
        change_tree(3, threshold=one_step(-np.inf)),
        change_tree(3, inclusive=lambda tree: tree.left >= 0),
        change_tree(3, missing_left=lambda tree: (tree.left >= 0) & ~tree.missing_left),
        change_tree(3, leaf=lambda tree: tree.leaf * np.float32(1.01)),
        set_argument(base=np.zeros(1)),
        lambda arguments: arguments.update(trees=arguments["trees"][:-1]),
    ],
    ids=["rounded", "step up", "step down", "<= for <", "missing flag", "leaf", "no base", "tree lost"],
)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson"])
def test_a_wrong_margin(
    objective: str, change: Any, X: Float32Array, train: Train, tmp_path: Path, broken_writer: Any
) -> None:
    booster = train(objective=objective)
    broken_writer(change)
    with pytest.raises(
        PackRefused, match=rf"worst at (caller|missing|threshold) row \d+, .*: {MARGINS}; margin may differ by .*{ROW}"
    ):
        pack(booster, X, name="m", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        change_tree(0, inclusive=lambda tree: tree.left >= 0),
        change_tree(0, threshold=one_step(np.inf)),
        change_tree(0, threshold=one_step(-np.inf)),
        change_tree(0, missing_left=lambda tree: (tree.left >= 0) & ~tree.missing_left),
    ],
    ids=["<= for <", "step up", "step down", "missing flag"],
)
def test_probes_find_what_the_callers_rows_do_not(
    change: Any, X: Float32Array, train: Train, tmp_path: Path, broken_writer: Any, monkeypatch: Any
) -> None:
    booster, rows = train(), np.nan_to_num(X[:40]) + np.float32(0.001)
    broken_writer(change)
    with pytest.raises(PackRefused, match=r"worst at (missing|threshold) row \d+"):
        pack(booster, rows, name="m", out=tmp_path)
    monkeypatch.setattr(parity, "split_probes", lambda *_: ([], 0, 0))
    monkeypatch.setattr(parity, "missing_probes", lambda *_: [])
    pack(booster, rows, name="m", out=tmp_path)


def test_a_wrong_label_threshold(X: Float32Array, booster: Any, tmp_path: Path, broken_writer: Any) -> None:
    broken_writer(set_argument(threshold=0.4))
    with pytest.raises(PackRefused, match=rf"label native 0, ONNX 1; {MARGINS}"):
        pack(booster, X, name="m", out=tmp_path)


def test_a_wrong_link(X: Float32Array, train: Train, tmp_path: Path, broken_writer: Any) -> None:
    broken_writer(set_argument(link="identity"))
    with pytest.raises(PackRefused, match=rf"prediction native [\d.]+, ONNX -?[\d.]+; {MARGINS}"):
        pack(train(objective="count:poisson"), X, name="m", out=tmp_path)


def test_outputs_of_another_shape(X: Float32Array, booster: Any, tmp_path: Path, broken_writer: Any) -> None:
    broken_writer(set_argument(task="regression"))
    with pytest.raises(PackRefused, match=r"outputs have shapes \{'prediction': .* are due"):
        pack(booster, X, name="m", out=tmp_path)


@pytest.mark.parametrize("unit", [3e-3, 1.0, 1e6])
def test_the_tolerance_follows_the_targets_unit(
    unit: float, X: Float32Array, signal: Any, train: Train, tmp_path: Path, broken_writer: Any
) -> None:
    booster = train(objective="reg:squarederror", target=signal * unit, reg_lambda=0, gamma=0)
    pack(booster, X, name="right", out=tmp_path)
    broken_writer(change_tree(0, leaf=lambda tree: tree.leaf * np.float32(1.001)))
    with pytest.raises(PackRefused, match=MARGINS):
        pack(booster, X, name="wrong", out=tmp_path)


def test_the_report_names_the_edited_features_first(X: Float32Array, tmp_path: Path, broken_writer: Any) -> None:
    wide = np.column_stack([np.zeros((len(X), 40), np.float32), np.nan_to_num(X)])
    names = [f"zero{i}" for i in range(40)] + list("abcde")
    booster = xgboost.train(
        {"objective": "binary:logistic"}, xgboost.DMatrix(wide, X[:, 0] > 0, feature_names=names), 3
    )
    broken_writer(change_tree(0, missing_left=lambda tree: (tree.left >= 0) & ~tree.missing_left))
    with pytest.raises(PackRefused) as error:
        pack(booster, wide, name="m", out=tmp_path)
    assert re.search(r"the row: [a-e]=nan, .*zero0=0\.0.*, and 21 more\. Nothing", str(error.value))


@pytest.mark.parametrize(
    ("objective", "change", "says"),
    [
        ("multi:softprob", set_argument(link="one_vs_all"), r"probability of output \d native .*, ONNX "),
        ("multi:softprob", set_argument(task="multilabel_classification"), r"outputs have shapes .* are due"),
        ("multi:softprob", set_argument(base=np.zeros(3)), r"margin of output \d native .*, ONNX "),
        ("binary:logistic", set_argument(link_scale=1.1), r"probability of class 1 native .*, ONNX "),
    ],
)
def test_several_classes_and_scales(
    objective: str, change: Any, says: str, X: Float32Array, tmp_path: Path, broken_writer: Any
) -> None:
    target = np.digitize(X[:, 4], [1, 2]) if objective.startswith("multi") else X[:, 4] > 1
    parameters = {"objective": objective, "max_depth": 3, **({"num_class": 3} if objective.startswith("multi") else {})}
    booster = xgboost.train(parameters, xgboost.DMatrix(X[:, :4], target), 5)
    pack(booster, X[:, :4], name="right", out=tmp_path)
    broken_writer(change)
    with pytest.raises(PackRefused, match=says):
        pack(booster, X[:, :4], name="wrong", out=tmp_path)


def test_leaves_of_another_class(X: Float32Array, tmp_path: Path, broken_writer: Any) -> None:
    """Trees of classes exchanged: each margin is some class's, and none is its own."""
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3},
        xgboost.DMatrix(X[:, :4], np.digitize(X[:, 4], [1, 2])),
        5,
    )

    def exchange(arguments: dict[str, Any]) -> None:
        arguments["trees"] = [dataclasses.replace(tree, outputs=2 - tree.outputs) for tree in arguments["trees"]]

    broken_writer(exchange)
    with pytest.raises(PackRefused, match=rf"margin of output \d native .*{ROW.replace('f0', 'f[0-3]')}"):
        pack(booster, X[:, :4], name="m", out=tmp_path)
