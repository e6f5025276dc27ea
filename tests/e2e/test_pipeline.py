"""A pipeline with strings on real flights, from raw columns to the record: as the pipeline itself, and brute force."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
import pandas as pd
import pytest
import xgboost
from click.testing import CliRunner
from sklearn.pipeline import Pipeline

from tests import inference, oracles, pipelines
from tests.conftest import serving
from tests.flights import COLUMNS, STRINGS, flights
from xai_service import overlap
from xai_service.cli import main
from xai_service.client import Client, RequestFailed
from xai_service.model.costs import Pace
from xai_service.pack import pack
from xai_service.types import ExplanationStatus


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return pipelines.fitted(xgboost.XGBClassifier(n_estimators=12, max_depth=4, n_jobs=1))


@pytest.fixture(scope="module")
def address(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("flights")
    pack(pipeline, flights().train, name="late", out=folder / "models", classes=("on time", "late"), missing="all")
    with serving(folder / "models", folder / "ledger.sqlite") as server:
        yield server.addresses[0]


def odd_flights() -> pd.DataFrame:
    """Held-out flights, then some with gaps, and categories that no training row had."""
    rows = flights().held_out.copy()
    rows.iloc[:30, COLUMNS.index("carrier")] = "a new airline"
    rows.iloc[10:20, COLUMNS.index("dest")] = "Ångström"
    rows.iloc[20:40, COLUMNS.index("carrier")] = None
    rows.iloc[30:50, COLUMNS.index("dep_delay")] = np.nan
    rows.iloc[45:60, COLUMNS.index("distance")] = np.nan
    return rows


def as_served(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as the pipeline is to see them: numbers are float32, and NaN stands for a missing string."""
    numbers = [name for name in COLUMNS if name not in STRINGS]
    rows = rows.astype(dict.fromkeys(numbers, np.float32)).astype(dict.fromkeys(numbers, np.float64))
    rows["carrier"] = rows["carrier"].where(rows["carrier"].notna(), np.nan)
    return rows


@pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")
def test_the_reply_is_the_pipelines_and_brute_forces(pipeline: Pipeline, address: str) -> None:
    rows = odd_flights()
    with Client(address) as client:
        reply = client.predict(rows[list(reversed(COLUMNS))], "late")
    assert reply.feature_names == COLUMNS
    assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
    due = pipeline.predict_proba(as_served(rows))
    np.testing.assert_allclose(reply.probabilities, due, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(reply.labels, pipeline.predict(as_served(rows)))
    assert {0, 1} == set(reply.labels.tolist())

    booster = pipeline[-1].get_booster()
    trees, players = pipelines.xgboost_trees(booster), pipelines.players(pipeline)
    assert np.bincount(players).max() > 5  # one-hot codes of many columns are one player
    seen = pipeline[:-1].transform(as_served(rows)).astype(np.float32)
    for row in (0, 12, 25, 35, 47, 55, 100, 200):
        phi = oracles.brute_force(trees, seen[row], players)
        np.testing.assert_allclose(reply.attributions[row, :, 0], phi, rtol=0, atol=1e-6 * max(1, np.abs(phi).max()))


def test_the_record_holds_what_was_sent(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = odd_flights().iloc[[0, 12, 25, 300]]
    with Client(address) as client:
        reply = client.predict(rows, "late")
        monkeypatch.setattr(Pace, "fits", lambda *_: False)
        monkeypatch.setattr(overlap, "_LONGEST_HERE_US", 0.0)
        deferred = client.predict(rows, "late", latency_budget_ms=50)
        later = [client.explanation(one, wait_s=20) for one in deferred.decision_ids]
        recorded = [client.decision(one) for one in reply.decision_ids]
    assert set(deferred.statuses) == {ExplanationStatus.DEFERRED}
    np.testing.assert_array_equal([one.attributions for one in later], reply.attributions)
    for decision, raw in zip(recorded, rows.itertuples(index=False), strict=True):
        for sent, kept in zip(raw, decision.values, strict=True):
            assert kept == (np.float32(sent) if not isinstance(sent, str) and sent is not None else sent) or (
                sent is None and np.isnan(kept)
            )


def test_from_a_csv_file(address: str, tmp_path: Path) -> None:
    rows, sheet = odd_flights().iloc[:40], tmp_path / "flights.csv"
    rows.to_csv(sheet, index=False)
    with Client(address) as client:
        due = client.predict(rows, "late")
    arguments = ["--target", address, "--output", str(tmp_path / "out.csv")]
    shown = CliRunner().invoke(main, ["predict", "--csv", str(sheet), "--model", "late", "--top", "7", *arguments])
    assert shown.exit_code == 0, shown.output
    assert "carrier a new airline" in shown.output
    with (tmp_path / "out.csv").open(newline="") as file:
        results = list(csv.DictReader(file))
    assert [float(one["phi_dest"]) for one in results] == due.attributions[:, 2, 0].tolist()
    text = click.unstyle(CliRunner().invoke(main, ["decision", due.decision_ids[12], "--target", address]).output)
    assert "a new airline" in text
    assert "Ångström" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"origin": "Newark"},
            r"feature 'origin' is 'Newark' in row 1, which the model does not know, .*EWR, JFK, LGA",
        ),
        ({"origin": None}, "feature 'origin' is missing"),
        ({"dep_delay": "late"}, "column 'dep_delay' holds strings"),
        ({"carrier": "x" * 5000}, "feature 'carrier' has more than 4096 characters in row 1"),
    ],
)
def test_refusals(change: dict[str, Any], says: str, address: str) -> None:
    rows = flights().held_out.iloc[:3].copy()
    for name, value in change.items():
        rows[name] = rows[name].astype(object)
        rows.iloc[1, COLUMNS.index(name)] = value
    with Client(address) as client, pytest.raises((RequestFailed, ValueError), match=says):
        client.predict(rows, "late")


def test_columns_are_the_models(address: str) -> None:
    rows = flights().held_out.iloc[:3]
    with Client(address) as client:
        with pytest.raises(RequestFailed, match="there is none for dest"):
            client.predict(rows.drop(columns="dest"), "late")
        with pytest.raises(RequestFailed, match="the model has no feature 'tail'"):
            client.predict(rows.assign(tail="N1"), "late")
        with pytest.raises(RequestFailed, match="takes strings for carrier, origin, dest: send `columns`"):
            client.predict(np.zeros((2, 7)), "late")
        with pytest.raises(RequestFailed, match="feature 'dest' takes strings, and numbers were sent"):
            client.predict(rows.assign(dest=1.0), "late")
        with pytest.raises(RequestFailed, match="feature 'hour' takes numbers, and strings were sent"):
            client.predict(rows.assign(hour="noon"), "late")


def _inputs(rows: pd.DataFrame) -> list[Any]:
    """A tensor for each column: of strings, the empty one standing for missing, or of any type of number."""
    inputs: list[Any] = []
    for i, (name, values) in enumerate(rows.items()):
        if name in STRINGS:
            elements = ["" if one is None else one for one in values.tolist()]
            inputs.append((name, "BYTES", [one.encode() for one in elements], [len(rows), 1] if i % 2 else [len(rows)]))
        else:
            whole = values.notna().all() and (values == values.round()).all()
            inputs.append((name, ("INT32", "INT64")[i % 2] if whole else ("FP32", "FP64")[i % 2], values.to_numpy()))
    return inputs


@pytest.mark.parametrize("raw", [True, False])
def test_the_open_inference_protocol_takes_an_input_for_each_feature(address: str, *, raw: bool) -> None:
    rows = odd_flights().iloc[[0, 12, 25, 35, 47, 55, 100]]
    with Client(address) as client:
        due = client.predict(rows, "late", latency_budget_ms=60_000)
    with grpc.insecure_channel(address) as channel:
        stub = inference.Stub(channel)
        model = stub.ModelMetadata(inference.pb.ModelMetadataRequest(name="late"))
        message = inference.unhurried(inference.request("late", reversed(_inputs(rows)), raw=raw))
        message.parameters["missing_string"].string_param = ""
        got = inference.arrays(stub.ModelInfer(message))
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        (name, "BYTES" if name in STRINGS else "FP32", [-1, 1]) for name in COLUMNS
    ]
    np.testing.assert_array_equal(got["margin"], due.margin)
    np.testing.assert_array_equal(got["treeshap_output"][:, :-1], due.attributions[:, :, 0].astype(np.float32))
    with Client(address) as client:
        decision = client.decision(got["decision_id"][1].decode())
    assert decision.input_strings[COLUMNS.index("dest")] == "Ångström"


def test_the_open_inference_protocol_refuses_what_is_no_feature(address: str) -> None:
    rows = flights().held_out.iloc[:3]
    inputs = {one[0]: one for one in _inputs(rows)}
    numbers = np.ones(3, np.float32)
    with grpc.insecure_channel(address) as channel:
        stub = inference.Stub(channel)
        for change, says in (
            ({"dest": None}, "inputs: there is none for dest"),
            ({"tail": ("tail", "BYTES", [b"N1"] * 3, [3])}, r"inputs\[7\]: the model has no feature 'tail'"),
            ({"dest": ("dest", "FP32", numbers)}, "feature 'dest' takes strings, and numbers were sent"),
            ({"hour": ("hour", "BYTES", [b"noon"] * 3, [3])}, "feature 'hour' takes numbers, and strings were sent"),
            ({"origin": ("origin", "BYTES", [b"Newark"] * 3, [3])}, r"inputs\['origin'\]: .* which the model does not"),
        ):
            changed = [one for one in (inputs | change).values() if one is not None]
            with pytest.raises(grpc.RpcError, match=says) as caught:
                stub.ModelInfer(inference.request("late", changed))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="an input named 'input' is one feature's"):
            stub.ModelInfer(inference.request("late", inference.matrix(np.zeros((2, 7)))))
