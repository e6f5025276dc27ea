"""Each linear model of the matrix answers as scikit-learn does; its attributions are shap's, or brute force's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import shap

from tests.matrix.data import people
from tests.matrix.linear_models import FILES, PACKED, REFUSED, LinearCase, table
from tests.matrix.test_pipelines import as_matrix, rows_to_compare
from xai_service import assemble
from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.treeshap import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from xai_service.types import Float32Array, Float64Array

POOL = WorkerPool(1)
DOCS = Path(__file__).parents[2] / "docs/models.md"
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::UserWarning",
                                        "ignore::FutureWarning")  # fmt: skip


def margin_of(model: Any, rows: Any) -> Float64Array:
    """What scikit-learn itself says before any link."""
    if hasattr(model, "decision_function"):
        found = model.decision_function(rows)
    else:
        found = model.predict(rows)
        last = model[-1] if hasattr(model, "steps") else model
        if type(last).__name__ in ("PoissonRegressor", "GammaRegressor") or getattr(last, "power", 0) == 1.5:
            found = np.log(found)
    return np.asarray(found).reshape(len(rows), -1)


def brute_force(model: Any, row: Any, against: Any) -> Float64Array:
    """Shapley values of the mean margin over the rows explained against, by their definition: (columns, outputs)."""
    frame = isinstance(against, pd.DataFrame)
    n = against.shape[1]
    mixed = []
    for subset in range(1 << n):
        part = against.copy()
        for column in range(n):
            if subset >> column & 1:
                if frame:
                    part[against.columns[column]] = row[column]
                else:
                    part[:, column] = row[column]
        mixed.append(part)
    margins = margin_of(model, pd.concat(mixed) if frame else np.concatenate(mixed))
    value = margins.reshape(1 << n, len(against), -1).mean(axis=1)
    phi = np.zeros((n, value.shape[1]))
    for subset in range(1 << n):
        size = subset.bit_count()
        for column in range(n):
            if not subset >> column & 1:
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                phi[column] += weight * (value[subset | 1 << column] - value[subset])
    return phi


@pytest.mark.parametrize("train", [train for _, train in PACKED], ids=[name.replace("`", "") for name, _ in PACKED])
def test_packed(train: Callable[[], LinearCase], tmp_path: Path) -> None:
    case = train()
    bundle = pack(case.model, case.X, name="m", out=tmp_path, missing="all" if _is_pipeline(case) else "seen",
                  **case.options)  # fmt: skip
    snapshot = ModelSnapshot.load(bundle)
    assert snapshot.manifest.explanation.algorithm == "linear"
    assert snapshot.method_for(1).algorithm.startswith("linear_shap")
    parity = snapshot.manifest.parity
    assert parity.attribution_rows >= 90
    assert parity.splits_tested == parity.splits_total

    given, matrix = _rows(case, snapshot)
    served = snapshot.predict(matrix)
    due = margin_of(case.model, given)
    np.testing.assert_allclose(served.margin, due, rtol=0, atol=1e-5 * np.abs(due).max())
    if served.probabilities is not None:
        np.testing.assert_allclose(served.probabilities, case.model.predict_proba(given), rtol=0, atol=2e-6)
        classes = np.array(case.model.classes_)
        np.testing.assert_array_equal(classes[served.labels], case.model.predict(given))
    elif not case.options.get("raw_score"):
        expected = case.model.predict(given).reshape(len(given), -1)
        np.testing.assert_allclose(served.prediction, expected, rtol=2e-5, atol=1e-5 * np.abs(expected).max())

    phi = _explained(snapshot, matrix)
    residual, holds, _ = assemble.check_additivity(phi, snapshot.base_values, served.margin, 1e-6)
    assert holds.all(), residual.max()
    for row in (0, 90, 119):  # a row's bits are its own, the kernel's variant for a few rows apart
        np.testing.assert_array_equal(snapshot.predict(matrix[row : row + 1]).margin[0], served.margin[row])
        if snapshot.method_for(1) == snapshot.method_for(120):
            np.testing.assert_array_equal(_explained(snapshot, matrix[row : row + 1])[0], phi[row])
    np.testing.assert_array_equal(_explained(snapshot, matrix[31:63]), phi[31:63])
    _check_attributions(case, snapshot, given, phi)


def _is_pipeline(case: LinearCase) -> bool:
    return hasattr(case.model, "steps")


def _explained(snapshot: ModelSnapshot, rows: Float32Array) -> Float64Array:
    job = snapshot.explain(POOL, rows)
    assert job.wait(10)
    return job.result()


def _rows(case: LinearCase, snapshot: ModelSnapshot) -> tuple[Any, Float32Array]:
    """Rows as scikit-learn takes them, and as they are served: others than packed with, and some far from them."""
    if _is_pipeline(case):
        names = list(case.X.columns)
        rows = rows_to_compare(names, snapshot, {}).iloc[:120].reset_index(drop=True)
        numeric = [one.name for one in snapshot.manifest.features if one.kind == "numeric" and one.allows_unknown]
        rows.loc[100:, numeric] *= 30.0
        matrix = as_matrix(rows, snapshot)
        numbers = {name: np.float32 for name in names if rows[name].dtype.kind == "f"}
        return rows.astype(numbers).astype(dict.fromkeys(numbers, np.float64)), matrix
    rows = np.asarray(case.X, np.float32)[-120:].copy()
    if len(case.X) == len(people().rows):
        rows[100:] *= np.linspace(-3, 3, 20, dtype=np.float32)[:, None]
    given = pd.DataFrame(rows, columns=case.X.columns) if isinstance(case.X, pd.DataFrame) else rows.astype(np.float64)
    return given, rows


def _check_attributions(case: LinearCase, snapshot: ModelSnapshot, given: Any, phi: Float64Array) -> None:
    against = case.options.get("background", case.X)
    if not _is_pipeline(case):
        size = np.abs(phi).max()
        # shap does not know all of scikit-learn's linear models, but takes their weights.
        model = (case.model.coef_.reshape(-1, phi.shape[1]), np.broadcast_to(case.model.intercept_, phi.shape[2:]))
        for output in range(phi.shape[2]):
            one = (np.asarray(model[0][output]), float(model[1][output]))
            masker = shap.maskers.Independent(np.asarray(against, np.float64), max_samples=len(against))
            explainer = shap.LinearExplainer(one, masker)
            due = explainer.shap_values(np.asarray(given, np.float64))
            np.testing.assert_allclose(phi[:, :, output], due, rtol=0, atol=1e-6 * size)
            expected = float(np.ravel(explainer.expected_value)[0])
            np.testing.assert_allclose(snapshot.base_values[output], expected, rtol=1e-6, atol=1e-6 * size)
        return
    few = case.options.get("background", case.X)
    used = [list(given.columns).index(name) for name in snapshot.feature_names]
    mean = phi_of_means(case, few)
    np.testing.assert_allclose(snapshot.base_values, mean, rtol=2e-6, atol=1e-6)
    small = few.iloc[:16]
    for row in (31, 77, 118):
        due = brute_force(case.model, given.iloc[row].tolist(), small)
        due = due[used]
        if len(few) > 16:  # of all rows, what each column adds less its mean over these: brute force tells the former
            due = due + _offsets(case, few, small)[used]
        np.testing.assert_allclose(phi[row], due, rtol=0, atol=2e-6 * max(1.0, np.abs(due).max()))


def phi_of_means(case: LinearCase, rows: Any) -> Float64Array:
    return margin_of(case.model, rows).mean(axis=0)


def _offsets(case: LinearCase, every: Any, few: Any) -> Float64Array:
    """By how much each column's mean over a few rows exceeds that over all: (columns, outputs)."""
    start = every.iloc[:1]
    offsets = []
    for name in every.columns:
        moved = pd.concat([start] * len(every), ignore_index=True)
        moved[name] = every[name].to_numpy()
        added = margin_of(case.model, moved)
        offsets.append(added[: len(few)].mean(axis=0) - added.mean(axis=0))
    return np.array(offsets)


@pytest.mark.parametrize("train", [train for _, train in FILES], ids=[name.replace("`", "") for name, _ in FILES])
def test_files_of_other_converters(train: Callable[[], LinearCase], tmp_path: Path) -> None:
    case = train()
    snapshot = ModelSnapshot.load(pack(case.file, case.X, name="m", out=tmp_path))
    assert snapshot.manifest.explanation.algorithm == "linear"
    rows = case.X[-60:].copy()
    served, due = snapshot.predict(rows), margin_of(case.model, rows)
    if served.probabilities is not None:
        np.testing.assert_allclose(served.probabilities, case.model.predict_proba(rows), rtol=0, atol=2e-6)
        np.testing.assert_array_equal(served.labels, case.model.predict(rows))
    np.testing.assert_allclose(served.margin, due, rtol=0, atol=1e-5 * np.abs(due).max())
    phi = _explained(snapshot, rows)
    small = case.X[:9]
    one, other = (brute_force(case.model, rows[row].tolist(), small) for row in (3, 50))
    np.testing.assert_allclose(phi[3] - phi[50], one - other, rtol=0, atol=1e-5 * np.abs(phi).max())
    np.testing.assert_allclose(snapshot.base_values, margin_of(case.model, case.X).mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("train", "says"),
    [(train, says) for _, train, _, says in REFUSED],
    ids=[one[0].replace("`", "") for one in REFUSED],
)
def test_refused(train: Callable[[], LinearCase], says: str, tmp_path: Path) -> None:
    case = train()
    with pytest.raises(PackRefused, match=says):
        pack(case.model, case.X, name="m", out=tmp_path, **case.options)
    assert list(tmp_path.iterdir()) == []


def test_the_docs_list_exactly_these() -> None:
    assert table() in DOCS.read_text(), "docs/models.md: paste what `python -m tests.matrix.linear_models` prints"
