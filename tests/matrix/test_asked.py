"""Each other model of the matrix answers as its library does; attributions are brute force's, within their error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.matrix.asked_models import PACKED, REFUSED, AskedCase, rows, table
from tests.unit.test_permutation import brute_force
from xai_service import assemble
from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.treeshap import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs/models.md"
POOL = WorkerPool(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("train", [train for _, train in PACKED], ids=[name.replace("`", "") for name, _ in PACKED])
def test_packed(train: Callable[[], AskedCase], tmp_path: Path) -> None:
    case = train()
    bundle = pack(case.model, case.X, name="m", out=tmp_path, **case.options)
    snapshot = ModelSnapshot.load(bundle)
    manifest = snapshot.manifest
    assert manifest.explanation.algorithm == "permutation"
    assert manifest.cover == "none"
    assert manifest.parity.attribution_reference is None
    assert manifest.parity.additivity_rows > 0

    asked = case.X[-150:]
    served = snapshot.predict(asked)
    due = case.output(asked)
    if served.probabilities is not None:
        if due.shape[1] == 1:
            due = np.hstack([1 - due, due])
        np.testing.assert_allclose(served.probabilities, due, rtol=0, atol=3e-6)
        close = np.abs(np.diff(np.sort(due, axis=1)[:, -2:], axis=1)[:, 0]) < 1e-5
        assert (served.labels == due.argmax(axis=1))[~close].all()
        assert np.ptp(served.probabilities[:, 0]) > 0.1
    elif not case.options.get("raw_score"):
        np.testing.assert_allclose(served.prediction, due, rtol=1e-5, atol=1e-5 * np.abs(due).max())

    few = asked[[0, 75, 149]]
    job = snapshot.explain(POOL, few)
    assert job.wait(120)
    found = snapshot.attributions(job)
    assert found.standard_error is not None
    _, holds, _ = assemble.check_additivity(found.phi, snapshot.base_values, served.margin[[0, 75, 149]], 1e-6)
    assert holds.all()
    again = snapshot.explain(POOL, few[1:2])
    assert again.wait(60)
    np.testing.assert_array_equal(again.result()[0], found.phi[1])

    n = manifest.explanation.background_drawn.split()[0]
    background = np.load(bundle / "background.npy")
    assert int(n) == len(background)

    def margin(mixed: np.ndarray) -> np.ndarray:
        return snapshot.predict(np.ascontiguousarray(mixed)).margin

    exact = np.stack([brute_force(margin, row, background) for row in few])
    size = np.abs(exact).max()
    off = np.abs(found.phi - exact)
    assert (off <= 6.5 * found.standard_error + 1e-5 * size).all(), (off / (found.standard_error + 1e-9)).max()
    assert found.standard_error.max() < 0.15 * size


@pytest.mark.parametrize(
    ("train", "says"),
    [(train, says) for _, train, _, says in REFUSED],
    ids=[one[0].replace("`", "") for one in REFUSED],
)
def test_refused(train: Callable[[], AskedCase], says: str, tmp_path: Path) -> None:
    case = train()
    with pytest.raises(PackRefused, match=says):
        pack(case.model, case.X, name="m", out=tmp_path, **case.options)
    assert list(tmp_path.iterdir()) == []


def test_the_converter_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = PACKED[0][1]()
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    with pytest.raises(
        PackRefused, match=r"packing a MLPClassifier needs skl2onnx: pip install 'xai-service\[agnostic\]'"
    ):
        pack(case.model, rows(), name="m", out=tmp_path, **case.options)


def test_the_docs_list_exactly_these() -> None:
    assert table() in DOCS.read_text(), "docs/models.md: paste what `python -m tests.matrix.asked_models` prints"
