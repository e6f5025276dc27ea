"""What Locust sends: every row in turn, as the service decodes it; and how replies are read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench import data, traffic
from bench.tally import Outcome
from bench.traffic import NoRows, Wanted
from xai_service.demo import data as loans
from xai_service.types import ExplanationMode
from xai_service.wire import codec
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb

ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)


def _calls(count, wanted, rows=ROWS):
    made = traffic.requests("loan", "3", rows, wanted)
    return [codec.decode_predict(request) for request in itertools.islice(made, count)]


def test_rows_take_turns_and_come_round_again():
    calls = _calls(15, Wanted(pb.EXPLANATION_MODE_NONE))
    assert np.array_equal(np.concatenate([call.rows for call in calls]), np.concatenate([ROWS, ROWS, ROWS[:1]]))
    assert {(call.model_name, call.model_version, call.mode) for call in calls} == {("loan", "3", ExplanationMode.NONE)}
    assert calls[0].latency_budget_ms is None


def test_batches_begin_where_the_last_ended():
    calls = _calls(3, Wanted(pb.EXPLANATION_MODE_REQUIRED, rows=5, budget_ms=2.5))
    assert [call.rows[0, 0] / 3 for call in calls] == [0, 5, 3]
    assert calls[0].mode is ExplanationMode.REQUIRED
    assert calls[0].latency_budget_ms == 2.5


def test_many_rows_are_prepared_up_to_a_bound():
    rows = np.arange(2000, dtype=np.float32)[:, None]
    calls = _calls(traffic.PREPARED + 1, Wanted(pb.EXPLANATION_MODE_NONE), rows)
    assert len({float(call.rows[0, 0]) for call in calls}) == traffic.PREPARED


def test_the_demos_and_the_benchmarks_models_are_known_by_their_features():
    names = [feature.name for feature in loans.FEATURES]
    assert np.array_equal(traffic.rows_for(names), loans.split(loans.load())[1].rows, equal_nan=True)
    flights = traffic.rows_for(data.FLIGHT_FEATURES)
    assert flights.shape == (data.HELD_OUT_FLIGHTS, len(data.FLIGHT_FEATURES))
    assert np.isfinite(flights).all()


def test_other_models_need_a_file_that_fits(tmp_path):
    file = tmp_path / "rows.npy"
    np.save(file, ROWS.astype(np.float64))
    rows = traffic.rows_for(["a", "b", "c"], file)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, ROWS)
    with pytest.raises(NoRows, match="--xai-rows"):
        traffic.rows_for(["a", "b", "c"])
    with pytest.raises(NoRows, match=r"\(7, 3\).*2 features"):
        traffic.rows_for(["a", "b"], file)


COMPLETE, DEFERRED, FAILED, NONE = (
    pb.EXPLANATION_STATUS_COMPLETE,
    pb.EXPLANATION_STATUS_DEFERRED,
    pb.EXPLANATION_STATUS_FAILED,
    pb.EXPLANATION_STATUS_NOT_REQUESTED,
)


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ([COMPLETE, COMPLETE], Outcome.EXPLAINED),
        ([COMPLETE, DEFERRED], Outcome.DEFERRED),
        ([DEFERRED, FAILED, COMPLETE], Outcome.FAILED),
        ([NONE], Outcome.PREDICTED),
    ],
)
def test_a_reply_is_as_good_as_its_worst_row(statuses, outcome):
    response = pb.PredictResponse(explanations=pb.Explanations(statuses=statuses))
    assert traffic.outcome_of(response) is outcome
