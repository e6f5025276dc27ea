"""Each pipeline of the matrix answers from raw rows as the pipeline itself does; attributions are brute force's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest

from tests import oracles
from tests.flights import STRINGS, flights
from tests.matrix.pipeline_models import PACKED, REFUSED, PipelineCase, table
from tests.pipelines import lightgbm_trees, ranked, raw_columns, xgboost_trees
from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.treeshap import TreeExplainer
from xai_service.types import Column

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array

DOCS = Path(__file__).parents[2] / "docs/models.md"
pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories", "ignore:X does not have valid feature")


def rows_to_compare(names: list[str], snapshot: ModelSnapshot, splits: dict[str, list[float]]) -> pd.DataFrame:
    """Flights not packed with; gaps and unknown categories where the model takes them; numbers on its thresholds."""
    rng = np.random.default_rng(4)
    rows = flights().held_out[names].reset_index(drop=True)
    features = {feature.name: feature for feature in snapshot.manifest.features}
    for at, name in enumerate(names):
        feature = features.get(name) or features.get(f"f{at}")
        if feature is None:
            continue
        some = rng.random(len(rows)) < 0.15
        if name in STRINGS:
            rows.loc[rows[name].isna(), name] = np.nan if feature.allows_missing else feature.categories[0]
            if feature.allows_unknown:
                rows.loc[some, name] = "beyond"
            elif name != "carrier":
                assert set(rows[name].dropna()) <= set(feature.categories)
        else:
            rows[name] = rows[name].astype(np.float64)
            if feature.allows_unknown and splits.get(feature.name):
                on = rng.choice(np.array(splits[feature.name], np.float32), some.sum())
                beside = np.nextafter(on, rng.choice(np.array([-np.inf, np.inf], np.float32), some.sum()))
                rows.loc[some, name] = np.where(rng.random(some.sum()) < 0.5, on, beside)
            rows[name] = rows[name].fillna(1.0) if not feature.allows_missing else rows[name]
        if feature.allows_missing:
            rows.loc[rng.random(len(rows)) < 0.1, name] = np.nan
    return rows


def as_matrix(rows: Any, snapshot: ModelSnapshot) -> Float32Array:
    """The rows as a request's columns become them."""
    columns = []
    for feature in snapshot.manifest.features:
        values = rows[feature.name]
        if feature.kind == "string":
            columns.append(Column(feature.name, tuple(one if isinstance(one, str) else None for one in values)))
        else:
            columns.append(Column(feature.name, values.to_numpy(np.float32)))
    ordered = snapshot.raw.ordered(columns)
    matrix = snapshot.raw.matrix(ordered)
    assert snapshot.raw.unknown(matrix, ordered) == []
    return matrix


@pytest.mark.parametrize("train", [train for _, train in PACKED], ids=[name.replace("`", "") for name, _ in PACKED])
def test_packed(train: Callable[[], PipelineCase], tmp_path: Path) -> None:
    case = train()
    pipeline = case.pipeline
    bundle = pack(pipeline, case.X, name="m", out=tmp_path, missing="all", **case.options)
    snapshot = ModelSnapshot.load(bundle)
    parity = snapshot.manifest.parity
    assert parity.attribution_rows > 150
    assert parity.threshold_rows + parity.category_rows > 50

    is_frame = isinstance(case.X, pd.DataFrame)
    names = list(case.X.columns) if is_frame else [f"f{i}" for i in range(case.X.shape[1])]
    known = dict(zip(names, names if is_frame else ["dep_delay", "distance", "hour", "month"], strict=False))
    if not is_frame and case.X.shape[1] == 2:
        known = {"f0": "origin", "f1": "distance"}
    rows = rows_to_compare(list(known.values()), snapshot, thresholds(bundle, snapshot)).set_axis(names, axis=1)
    matrix = as_matrix(rows, snapshot)
    served = snapshot.predict(matrix)
    numbers = {name: np.float32 for name in names if known[name] not in STRINGS}
    given: Any = rows.astype(numbers).astype(dict.fromkeys(numbers, np.float64))
    if not is_frame:
        given = given.to_numpy()
    if served.probabilities is not None:
        np.testing.assert_allclose(served.probabilities, pipeline.predict_proba(given), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(served.labels, pipeline.predict(given))
        assert np.ptp(served.probabilities[:, 0]) > 0.1
    else:
        np.testing.assert_allclose(served.prediction[:, 0], pipeline.predict(given), rtol=0, atol=1e-5)

    seen = given if len(pipeline) == 1 else pipeline[:-1].transform(given)
    model = pipeline[-1]
    is_xgboost = type(model).__module__.startswith("xgboost")
    if hasattr(seen, "tocoo"):
        dense = np.full(seen.shape, np.nan if is_xgboost else 0.0)
        dense[seen.tocoo().row, seen.tocoo().col] = seen.tocoo().data
        seen = dense
    seen = np.asarray(seen, np.float64)
    trees = xgboost_trees(model.get_booster()) if is_xgboost else lightgbm_trees(model.booster_)
    if not is_xgboost:
        trees, seen = ranked(trees, seen)
    players = raw_columns(pipeline, names, [feature.name for feature in snapshot.manifest.features])
    phi = TreeExplainer(bundle / "model.onnx").shap_values(matrix).reshape(*matrix.shape, -1)
    for row in (0, 7, 33, 71, 150, 303):
        for output in range(phi.shape[2]):
            due = oracles.reference(trees[output :: phi.shape[2]], seen[row], players)
            np.testing.assert_allclose(phi[row, :, output], due, rtol=0, atol=2e-6 * max(1, np.abs(due).max()))


def thresholds(bundle: Path, snapshot: ModelSnapshot) -> dict[str, list[float]]:
    """The finite thresholds of the file's splits, by feature."""
    node = onnx.load(bundle / "model.onnx").graph.node[0]
    parts = {one.name: one for one in node.attribute}
    found: dict[str, list[float]] = {}
    for mode, feature, value in zip(
        parts["nodes_modes"].strings, parts["nodes_featureids"].ints, parts["nodes_values"].floats, strict=True
    ):
        if mode in (b"BRANCH_LEQ", b"BRANCH_LT") and np.isfinite(value):
            found.setdefault(snapshot.feature_names[feature], []).append(value)
    return found


@pytest.mark.parametrize(
    ("train", "says"),
    [(train, says) for _, train, _, says in REFUSED],
    ids=[one[0].replace("`", "") for one in REFUSED],
)
def test_refused(train: Callable[[], PipelineCase], says: str, tmp_path: Path) -> None:
    case = train()
    with pytest.raises(PackRefused, match=says):
        pack(case.pipeline, case.X, name="m", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_docs_list_exactly_these() -> None:
    assert table() in DOCS.read_text(), "docs/models.md: paste what `python -m tests.matrix.pipeline_models` prints"
