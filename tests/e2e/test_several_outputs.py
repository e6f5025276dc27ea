"""Classes, labels and targets by the whole path: packed, served, recorded, read back and shown."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from tests import inference
from tests.conftest import serving
from tests.matrix import lightgbm_models, xgboost_models
from tests.matrix.data import NAMES, REGION, people
from tests.matrix.oracles import Case
from xai_service import overlap
from xai_service.cli import main
from xai_service.client import Client, RequestFailed
from xai_service.model.costs import Pace
from xai_service.pack import pack
from xai_service.types import ExplanationStatus

THIRDS = ("low", "middle", "high")


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {
        "thirds": xgboost_models.trained("third", objective="multi:softprob", num_class=3)(),
        "ova": lightgbm_models.trained("third", objective="multiclassova", num_class=3, sigmoid=2.0)(),
        "labels": xgboost_models.trained("labels", objective="binary:logistic")(),
        "targets": xgboost_models.trained("several", objective="reg:squarederror")(),
        "order": lightgbm_models.ranked("lambdarank")(),
        "regions": xgboost_models.categorical(max_cat_to_onehot=1)(),
    }


@pytest.fixture(scope="module")
def address(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("several")
    for name, case in cases.items():
        classes = {"thirds": THIRDS, "ova": THIRDS, "labels": ("paid", "schooled", "urban")}.get(name)
        pack(case.model, people().rows, name=name, out=folder / "models", classes=classes, feature_names=NAMES)
    with serving(folder / "models", folder / "ledger.sqlite") as server:
        yield server.addresses[0]


@pytest.mark.parametrize("name", ["thirds", "ova", "labels", "targets", "order", "regions"])
def test_from_request_to_record(name: str, cases: dict[str, Case], address: str) -> None:
    rows, case = people().rows[:40], cases[name]
    margin, outputs, phi = case.margin(rows), case.outputs(rows), case.contributions(rows)
    with Client(address) as client:
        reply = client.predict(rows, name)
        recorded = [client.decision(one) for one in reply.decision_ids[:5]]
    assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
    np.testing.assert_allclose(reply.margin, margin, rtol=0, atol=1e-5 * np.abs(margin).max())
    np.testing.assert_allclose(reply.attributions, phi, rtol=0, atol=1e-5 * np.abs(phi).max())
    if name in ("thirds", "ova"):
        np.testing.assert_array_equal(reply.labels, margin.argmax(axis=1))
        assert {0, 1, 2} == set(reply.labels.tolist())
    if name in ("thirds", "ova", "labels"):
        np.testing.assert_allclose(reply.probabilities, outputs, atol=3e-6)
        assert reply.prediction is None
    if name in ("targets", "order"):
        np.testing.assert_allclose(reply.prediction, outputs, rtol=1e-5)
    if name == "labels":
        assert reply.labels is None
    for row, decision in enumerate(recorded):
        assert decision.label == (None if reply.labels is None else reply.labels[row])
        assert (decision.threshold is None) == (name != "regions")
        np.testing.assert_array_equal(decision.margin, reply.margin[row])
        np.testing.assert_array_equal(decision.explanation.attributions, reply.attributions[row])
        np.testing.assert_array_equal(decision.explanation.base_values, reply.base_values)


def test_the_class_decided_is_explained(cases: dict[str, Case], address: str, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows([["" if np.isnan(cell) else cell for cell in row] for row in people().rows[:12].tolist()])
    sheet = tmp_path / "results.csv"
    arguments = ["predict", "--csv", str(table), "--model", "thirds", "--target", address, "--output", str(sheet)]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    with sheet.open(newline="") as file:
        results = list(csv.DictReader(file))
    phi = cases["thirds"].contributions(people().rows[:12])
    probabilities = cases["thirds"].outputs(people().rows[:12])
    for row, cells in enumerate(results):
        decided = THIRDS[probabilities[row].argmax()]
        assert cells["label"] == decided
        for output, label in enumerate(THIRDS):
            assert float(cells[f"p_{label}"]) == pytest.approx(probabilities[row, output], abs=3e-6)
            assert float(cells[f"phi_educ[{label}]"]) == pytest.approx(phi[row, 0, output], abs=1e-5)
        text = CliRunner().invoke(main, ["decision", cells["decision_id"], "--target", address]).output
        heaviest = NAMES[int(np.abs(phi[row, :, THIRDS.index(decided)]).argmax())]
        lines = [line for line in click.unstyle(text).splitlines() if line]
        assert any(line.startswith(f"margin of {decided}") for line in lines)
        assert any(line.startswith("probability") and line.endswith(f" of {decided}") for line in lines)
        contributions = lines[next(i for i, line in enumerate(lines) if line.startswith("feature ")) + 1 :]
        assert contributions[0].startswith(heaviest)


def test_several_labels_are_all_told(address: str) -> None:
    with Client(address) as client:
        reply = client.predict(people().rows[:1], "labels")
    text = click.unstyle(CliRunner().invoke(main, ["decision", reply.decision_ids[0], "--target", address]).output)
    told = ", ".join(f"{name} {p:.3f}" for name, p in zip(reply.classes, reply.probabilities[0], strict=True))
    assert told in text
    assert f"margin of {reply.classes[int(reply.probabilities[0].argmax())]}" in text


def test_codes_of_categories(cases: dict[str, Case], address: str) -> None:
    """What is no whole number is refused; what is no known code gets the library's answer."""
    rows = people().rows[:4].copy()
    rows[:, REGION] = [-1, 50, 3e9, np.nan]
    with Client(address) as client:
        with pytest.raises(RequestFailed, match="feature 'region' is missing"):
            client.predict(rows, "regions")
        rows[3, REGION] = 0
        reply = client.predict(rows, "regions")
        np.testing.assert_allclose(reply.margin, cases["regions"].margin(rows), rtol=0, atol=1e-5)
        rows[2, REGION] = 2.5
        with pytest.raises(RequestFailed, match=r"feature 'region' is 2\.5 in row 2"):
            client.predict(rows, "regions")


def test_an_explanation_of_each_class_may_come_later(
    cases: dict[str, Case], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = people().rows[:3]
    monkeypatch.setattr(Pace, "fits", lambda *_: False)
    monkeypatch.setattr(overlap, "_LONGEST_HERE_US", 0.0)
    with Client(address) as client:
        reply = client.predict(rows, "ova", latency_budget_ms=50)
        assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
        later = [client.explanation(one, wait_s=20) for one in reply.decision_ids]
    phi = cases["ova"].contributions(rows)
    for row, explanation in enumerate(later):
        np.testing.assert_allclose(explanation.attributions, phi[row], rtol=0, atol=1e-5 * np.abs(phi).max())


@pytest.mark.parametrize("name", ["thirds", "labels", "targets", "order"])
def test_the_open_inference_protocol_has_a_row_of_attributions_for_each_output(
    name: str, cases: dict[str, Case], address: str
) -> None:
    rows, case = people().rows[:5], cases[name]
    phi, outputs = case.contributions(rows), case.outputs(rows)
    with grpc.insecure_channel(address) as channel:
        stub = inference.Stub(channel)
        message = inference.unhurried(inference.request(name, inference.matrix(rows)))
        got = inference.arrays(stub.ModelInfer(message))
        model = stub.ModelMetadata(inference.pb.ModelMetadataRequest(name=name))
    declared = {one.name: list(one.shape) for one in model.outputs}
    assert all(list(values.shape[1:]) == declared[output][1:] for output, values in got.items())
    shap = got["treeshap_output"]
    if name == "order":  # one output: no dimension for it
        assert shap.shape == (5, phi.shape[1] + 1)
        shap = shap[:, None]
    assert shap.shape == (5, phi.shape[2], phi.shape[1] + 1)
    np.testing.assert_allclose(shap[:, :, :-1], phi.transpose(0, 2, 1), rtol=0, atol=1e-5 * np.abs(phi).max())
    np.testing.assert_allclose(shap.sum(axis=2), got["margin"], rtol=0, atol=1e-4 * np.abs(phi).max())
    own = {"thirds": ["label", "probabilities"], "labels": ["probabilities"]}.get(name, ["prediction"])
    assert [*got] == [*own, "margin", "treeshap_output", "decision_id"]
    np.testing.assert_allclose(got[own[-1]], outputs, rtol=1e-5, atol=3e-6)
