"""A scorecard with strings, and a net that is explained by asking it, from requests to the record."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.conftest import serving
from tests.flights import COLUMNS, STRINGS, flights
from tests.matrix.test_linear import brute_force
from tests.unit.test_permutation import brute_force as brute_force_of
from xai_service.cli import main
from xai_service.client import Client
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.permutation import PermutationExplainer
from xai_service.types import ExplanationStatus

NUMBERS = ["dep_delay", "distance", "hour", "month"]
pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def scorecard() -> Pipeline:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    strings = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="unknown"),
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=60),
    )
    columns = ColumnTransformer([("numbers", numbers, NUMBERS), ("strings", strings, list(STRINGS))])
    return Pipeline([("columns", columns), ("model", LogisticRegression(max_iter=3000))]).fit(
        flights().train, flights().late
    )


def numbers_of(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = frame[NUMBERS].fillna(0.0).to_numpy(np.float32)
    return (values / np.float32([60, 1000, 12, 12])).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> MLPClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier((8, 6), max_iter=60, random_state=1).fit(numbers_of(flights().train), flights().late)


@pytest.fixture(scope="module")
def repository(scorecard: Pipeline, net: MLPClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    pack(scorecard, flights().train, name="scorecard", out=folder, classes=("on time", "late"), missing="all")
    rows = numbers_of(flights().train)
    pack(net, rows, name="net", out=folder, background=rows, background_rows=60, feature_names=NUMBERS)
    return folder


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(repository, tmp_path_factory.mktemp("ledger") / "ledger.sqlite") as server:
        yield server.addresses[0]


def odd_flights() -> pd.DataFrame:
    rows = flights().held_out.iloc[:120].copy()
    rows.iloc[:30, COLUMNS.index("carrier")] = "a new airline"
    rows.iloc[10:20, COLUMNS.index("dest")] = "Ångström"
    rows.iloc[20:40, COLUMNS.index("carrier")] = None
    rows.iloc[30:50, COLUMNS.index("dep_delay")] = np.nan
    rows.iloc[60:70, COLUMNS.index("distance")] = 2e5
    return rows


def test_a_scorecard_from_raw_columns(scorecard: Pipeline, address: str) -> None:
    rows = odd_flights()
    with Client(address) as client:
        reply = client.predict(rows, "scorecard")
        decision = client.decision(reply.decision_ids[12])
    assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
    assert reply.method.algorithm == "linear_shap+path_dependent_treeshap"
    assert reply.standard_error is None
    assert decision.explanation.standard_error is None
    numeric = dict.fromkeys(NUMBERS, np.float32)
    given = rows.astype(numeric).astype(dict.fromkeys(NUMBERS, np.float64))
    given["carrier"] = given["carrier"].where(given["carrier"].notna(), np.nan)
    np.testing.assert_allclose(reply.probabilities, scorecard.predict_proba(given), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(reply.labels, scorecard.predict(given))

    # Of all training rows, what each column adds less its mean; brute force against a few, moved by what they differ.
    few = flights().train.iloc[:20]
    places = [list(COLUMNS).index(name) for name in reply.feature_names]
    one, other = (brute_force(scorecard, given.iloc[row].tolist(), few)[places, 0] for row in (12, 65))
    np.testing.assert_allclose(
        reply.attributions[12, :, 0] - reply.attributions[65, :, 0], one - other, rtol=1e-5, atol=1e-5
    )
    expected = scorecard.decision_function(flights().train).mean()
    np.testing.assert_allclose(reply.base_values, expected, rtol=1e-5)


def test_a_net_within_a_long_budget(net: MLPClassifier, repository: Path, address: str) -> None:
    rows = numbers_of(flights().held_out)[:4]
    with Client(address) as client:
        reply = client.predict(rows, "net", latency_budget_ms=60_000, timeout_s=100)
        decision = client.decision(reply.decision_ids[2])
    assert reply.method.algorithm == "permutation_sampling"
    np.testing.assert_allclose(reply.probabilities, net.predict_proba(rows.astype(float)), rtol=0, atol=1e-5)
    snapshot = ModelSnapshot.load(repository / "net/1")
    background = np.load(repository / "net/1/background.npy")
    due = np.stack([brute_force_of(lambda x: snapshot.predict(x).margin, row, background) for row in rows])
    assert reply.standard_error is not None
    assert reply.standard_error.shape == reply.attributions.shape == (4, 4, 1)
    assert (np.abs(reply.attributions - due) <= 6 * reply.standard_error + 1e-5).all()
    np.testing.assert_array_equal(decision.explanation.standard_error, reply.standard_error[2])
    np.testing.assert_array_equal(decision.explanation.attributions, reply.attributions[2])


def test_a_net_is_deferred_and_completed(address: str) -> None:
    rows = numbers_of(flights().held_out)[:6]
    with Client(address) as client:
        at_once = client.predict(rows, "net", latency_budget_ms=60_000, timeout_s=100)
        assert set(at_once.statuses) == {ExplanationStatus.COMPLETE}, at_once.detail
        reply = client.predict(rows, "net", latency_budget_ms=2)
        assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
        assert reply.standard_error is None
        later = [client.explanation(one, wait_s=60) for one in reply.decision_ids]
    assert {one.status for one in later} == {ExplanationStatus.COMPLETE}
    np.testing.assert_array_equal([one.attributions for one in later], at_once.attributions)
    np.testing.assert_array_equal([one.standard_error for one in later], at_once.standard_error)
    text = CliRunner().invoke(main, ["decision", reply.decision_ids[0], "--target", address])
    assert "standard error" in text.output, text.output
    shown = CliRunner().invoke(main, ["decision", reply.decision_ids[0], "--target", address, "--json"])
    told = json.loads(shown.output)["explanation"]["standard_error"]
    np.testing.assert_array_equal(list(told.values()), later[0].standard_error)


def test_a_server_that_stops_leaves_the_rest_for_the_next(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = numbers_of(flights().held_out)[:5]
    estimate = PermutationExplainer.estimate
    begun = threading.Event()

    def slow(self: PermutationExplainer, asked: Any, stop: threading.Event) -> Any:
        begun.set()
        while not stop.wait(0.01):
            pass
        return estimate(self, asked, stop)

    with monkeypatch.context() as patched:
        patched.setattr(PermutationExplainer, "estimate", slow)
        with serving(repository, tmp_path / "ledger.sqlite") as server, Client(server.addresses[0]) as client:
            ids = client.predict(rows, "net", latency_budget_ms=1).decision_ids
            assert begun.wait(10)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 20
    with serving(repository, tmp_path / "ledger.sqlite") as server, Client(server.addresses[0]) as client:
        later = [client.explanation(one, wait_s=60) for one in ids]
    assert {one.status for one in later} == {ExplanationStatus.COMPLETE}
