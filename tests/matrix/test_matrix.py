"""Each setting of the matrix is packed and right, or refused with its reason; and the docs say which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import oracles
from tests.matrix.data import people
from tests.matrix.settings import SETTINGS, table
from xai_service.errors import PackRefused
from xai_service.model.session import open_session
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.treeshap import TreeExplainer

if TYPE_CHECKING:
    from tests.matrix.oracles import Case
    from tests.matrix.setting import Setting
    from xai_service.types import Float32Array

DOCS = Path(__file__).parents[2] / "docs/models.md"
MARGIN_TOLERANCE = 1e-5  # of the largest margin
ATTRIBUTION_TOLERANCE = 1e-5  # of the largest attribution


def ids(setting: Setting) -> str:
    return f"{setting.library} {setting.name.replace('`', '')}"


def rows_to_compare(case: Case) -> Float32Array:
    """People not packed with, gaps everywhere, values on thresholds and beside them, codes known and unknown."""
    rng = np.random.default_rng(11)
    rows = np.repeat(people().rows[:120], 3, axis=0)
    if isinstance(case.X, np.ndarray):
        rows = np.repeat(case.X[:120], 3, axis=0)
    if case.takes_missing:
        rows[120:180][rng.random((60, rows.shape[1])) < 0.4] = np.nan
    # Of scikit-learn's, infinite ones ask whether there is a value.
    numeric = [(of, value) for of, value in case.thresholds if of not in case.categorical and value < np.inf]
    for row in rows[180:] if numeric else ():
        for at in rng.integers(len(numeric), size=4):
            feature, threshold = numeric[at]
            on = np.float32(np.clip(threshold, -3e38, 3e38))  # LightGBM has 1e300 where all but NaN go left
            row[feature] = rng.choice([on, np.nextafter(on, np.float32(-np.inf)), np.nextafter(on, np.float32(np.inf))])
    for column in case.categorical:
        rows[:, column] = rng.choice([-3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 70, 1e6, np.nan], size=len(rows))
    return rows


@pytest.mark.parametrize("setting", [one for one in SETTINGS if not one.refused], ids=ids)
def test_packed(setting: Setting, tmp_path: Path) -> None:
    case = setting.train()
    bundle = pack(case.model, case.rows_to_pack, name="m", out=tmp_path, **case.options)
    snapshot = ModelSnapshot.load(bundle)
    rows = rows_to_compare(case)
    session = open_session((bundle / "model.onnx").read_bytes())
    found = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"input": rows}), strict=True)
    )

    margin = case.margin(rows)
    assert np.ptp(margin) > 0 or "one leaf" in setting.name
    np.testing.assert_allclose(found["margin"], margin, rtol=0, atol=MARGIN_TOLERANCE * np.abs(margin).max())
    served = snapshot.predict(rows)
    np.testing.assert_array_equal(served.margin, found["margin"])
    _check_outputs(case, rows, margin, found)

    background = case.options.get("background")
    phi = TreeExplainer(bundle / "model.onnx", background).shap_values(rows).reshape(*rows.shape, -1)
    parity = snapshot.manifest.parity
    if background is not None:
        assert parity.attribution_reference == "interventional, leaf by leaf"
        assert parity.attribution_rows > 40
    elif case.options.get("covers") == "count":
        assert parity.attribution_reference is None
        assert parity.attribution_rows == 0
    else:
        assert (case.contributions is None) == setting.by_brute_force
        assert parity.attribution_reference == case.reference
        assert (parity.attribution_rows > 150) == (case.reference is not None)
        assert parity.attribution_rows > 150 or parity.attribution_rows == 0
    if case.contributions is not None:
        due = case.contributions(rows)
        for output in range(phi.shape[2]):
            size = np.abs(due[:, :, output]).max()
            np.testing.assert_allclose(phi[:, :, output], due[:, :, output], rtol=0, atol=ATTRIBUTION_TOLERANCE * size)
    asks_again = case.asks_again or "CatBoost" in setting.name  # a whole level, even where the answer is known
    assert parity.splits_tested == parity.splits_total or asks_again
    assert (parity.missing_rows > 0) == case.takes_missing
    assert (parity.category_rows > 0) == bool(case.categorical)
    assert parity.additivity_rows > parity.caller_rows == len(people().rows)


def _check_outputs(case: Case, rows: Float32Array, margin: np.ndarray, found: dict[str, np.ndarray]) -> None:
    expected = margin if case.options.get("raw_score") else case.outputs(rows)
    assert expected is None or np.isfinite(expected).all()
    if "prediction" in found:
        np.testing.assert_allclose(found["prediction"], expected, rtol=2e-5, atol=1e-5 * np.abs(expected).max())
        return
    probabilities = found["probabilities"]
    if margin.shape[1] == 1:
        if expected.min() < 0:  # binary:logitraw predicts the margin
            expected = 1 / (1 + np.exp(-margin))
        np.testing.assert_allclose(probabilities, np.hstack([1 - expected, expected]), atol=3e-6)
        np.testing.assert_array_equal(found["label"], expected[:, 0] > 0.5)
        return
    if expected is not None:  # multi:softmax predicts the label
        np.testing.assert_allclose(probabilities, expected, atol=3e-6)
    if "label" in found:
        np.testing.assert_array_equal(found["label"], margin.argmax(axis=1))


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.by_brute_force], ids=ids)
def test_attributions_that_no_library_computes(setting: Setting, tmp_path: Path) -> None:
    """Against brute force on the trees that the library itself holds."""
    case = setting.train()
    assert case.contributions is None
    explainer = TreeExplainer(
        pack(case.model, case.rows_to_pack, name="m", out=tmp_path, **case.options) / "model.onnx"
    )
    trees = case.trees()
    assert len(trees) == np.size(explainer.expected_value)
    rows = rows_to_compare(case)[[0, 130, 150, 200]]
    phi = explainer.shap_values(rows).reshape(*rows.shape, -1)
    for row, found in zip(rows, phi, strict=True):
        for output, of_output in enumerate(trees):
            due = oracles.brute_force(of_output, row)
            np.testing.assert_allclose(found[:, output], due, rtol=0, atol=1e-5 * np.abs(due).max())


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.refused], ids=ids)
def test_refused(setting: Setting, tmp_path: Path) -> None:
    case = setting.train()
    with pytest.raises(PackRefused, match=setting.says):
        pack(case.model, case.rows_to_pack, name="m", out=tmp_path, **case.options)
    assert list(tmp_path.iterdir()) == []


def test_the_docs_list_exactly_these() -> None:
    assert table() in DOCS.read_text(), "docs/models.md: paste what `python -m tests.matrix.settings` prints"
    assert len({(one.library, one.name) for one in SETTINGS}) == len(SETTINGS)
    assert len(SETTINGS) >= 45
