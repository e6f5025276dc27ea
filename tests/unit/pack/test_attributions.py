"""The gate's second half refuses covers that are not the model's, and sums that miss the margin."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pytest

from tests.matrix import lightgbm_models, xgboost_models
from tests.matrix.data import NAMES, people
from xai_service.errors import PackRefused
from xai_service.model.bundle import Bundle
from xai_service.pack import onnx_writer, pack, probes, readers
from xai_service.pack.attributions import prove_attributions
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.pack.forest import Tree

MODELS = [
    xgboost_models.trained("third", objective="multi:softprob", num_class=3),
    lightgbm_models.trained("third", objective="multiclass", num_class=3),
]


def rows_for_hessians(tree: Tree) -> Tree:
    """Covers that add up, but are others: a little of the left subtree's is moved to the right's."""
    cover = tree.cover.copy()
    moved = 0.01 * cover[tree.left[0]]
    for child, sign in ((tree.left[0], -1), (tree.right[0], 1)):
        share, stack = sign * moved / cover[child], [int(child)]
        while stack:
            node = stack.pop()
            cover[node] *= 1 + share
            if tree.left[node] >= 0:
                stack += [int(tree.left[node]), int(tree.right[node])]
    return dataclasses.replace(tree, cover=cover)


@pytest.mark.parametrize("train", MODELS)
def test_covers_of_something_else(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = onnx_writer.write_onnx

    def write(trees: Any, **arguments: Any) -> bytes:
        return original([rows_for_hessians(trees[0]), *trees[1:]], **arguments)

    monkeypatch.setattr(onnx_writer, "write_onnx", write)
    with pytest.raises(
        PackRefused,
        match=r"attributions are not those of the native model: worst at .* feature '\w+', output 0: .* row: ",
    ):
        pack(train().model, people().rows, name="m", out=tmp_path, feature_names=NAMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("boosting", ["gbdt", "rf"])
def test_targets_far_from_0(boosting: str, tmp_path: Path) -> None:
    """LightGBM's leaves hold the targets' mean; in float32 beside 1e6, a third of an attribution was lost."""
    target = 1e6 + people().targets["log wage"]
    sampled = {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1} if boosting == "rf" else {}
    booster = lightgbm.train(
        {"objective": "regression", "num_leaves": 9, "num_threads": 1, "verbosity": -1, **sampled},
        lightgbm.Dataset(people().rows, target),
        10,
    )
    bundle = pack(booster, people().rows, name="m", out=tmp_path, feature_names=NAMES)
    rows = people().rows[:100]
    due = booster.predict(rows, pred_contrib=True)[:, :-1] / (10 if boosting == "rf" else 1)
    explainer = TreeExplainer(bundle / "model.onnx")
    for phi in (explainer.shap_values(rows), np.concatenate([explainer.shap_values(row[None]) for row in rows])):
        np.testing.assert_allclose(phi, due, rtol=0, atol=1e-5 * np.abs(due).max())
    assert Bundle.load(bundle).manifest.parity.max_attribution_difference < 1e-5


@pytest.mark.parametrize("train", MODELS)
def test_a_reference_that_differs(train: Any, tmp_path: Path) -> None:
    native = readers.read(train().model)

    def off(rows: Any) -> Any:
        phi, base = native.contributions(rows)  # type: ignore[misc]
        return phi, base + np.array([0, 1e-3, 0])

    with pytest.raises(PackRefused, match=r"base values .* are not those of"):
        pack(dataclasses.replace(native, contributions=off), people().rows, name="m", out=tmp_path)
    narrow = dataclasses.replace(native, contributions=lambda rows: (np.zeros((len(rows), 1, 1)), np.zeros(3)))
    with pytest.raises(PackRefused, match=r"has shape .* is due"):
        pack(narrow, people().rows, name="m", out=tmp_path)
    none = dataclasses.replace(native, contributions=None)
    parity = Bundle.load(pack(none, people().rows, name="m", out=tmp_path)).manifest.parity
    assert (parity.attribution_rows, parity.attribution_reference) == (0, None)
    assert parity.additivity_rows > len(people().rows)


def test_sums_that_miss_the_margin(tmp_path: Path) -> None:
    native = readers.read(MODELS[0]().model)
    data = (pack(native, people().rows, name="m", out=tmp_path) / "model.onnx").read_bytes()
    tried = probes.caller_probes(people().rows)
    margins = np.asarray(native.predict(people().rows)[0], np.float32)
    arguments: dict[str, Any] = {
        "native": native, "X": people().rows, "probes": tried, "names": NAMES, "progress": lambda _: None
    }  # fmt: skip
    found = prove_attributions(data, margins=margins, **arguments)
    assert found.reference == "xgboost pred_contribs"
    assert found.max_residual < 1e-6
    margins[17, 1] += 0.01
    with pytest.raises(PackRefused, match=r"do not add up to the margin: at caller row 17, row 17 of X, .* row: educ="):
        prove_attributions(data, margins=margins, **arguments)
