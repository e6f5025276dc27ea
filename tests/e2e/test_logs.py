"""Whatever is asked of a server, and however it fails: what was sent is in no line of its log, at no level."""

from __future__ import annotations

import json
import logging

import grpc
import numpy as np
import pytest
import xgboost

from tests import pipelines
from tests.conftest import serving
from tests.flights import COLUMNS, STRINGS, flights
from xai_service import overlap
from xai_service.client import Client, RequestFailed
from xai_service.logs import logging_to_stderr
from xai_service.model.costs import Order
from xai_service.model.raw_features import RawFeatures
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor

NUMBER, TEXT = 271828.25, "a passenger's own words"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of numbers and strings."""
    folder = tmp_path_factory.mktemp("flights")
    model = pipelines.fitted(xgboost.XGBClassifier(n_estimators=3, max_depth=3, n_jobs=1))
    pack(model, flights().train, name="late", out=folder, classes=("on time", "late"), missing="all")
    return folder


@pytest.fixture
def rows():
    """One flight with a number and a string that can be found again."""
    rows = flights().held_out.iloc[:1].copy()
    rows["distance"] = NUMBER
    rows["carrier"] = TEXT
    return rows


def ask(client, channel, rows):
    """Every way to be answered or refused; returns the refusals."""
    numbers = rows[[name for name in COLUMNS if name not in STRINGS]].to_numpy(np.float32)
    attempts = [
        lambda: client.predict(rows, "late", latency_budget_ms=60_000),
        lambda: client.predict(rows, "late", latency_budget_ms=0.001),
        lambda: client.predict(rows, TEXT),
        lambda: client.predict(rows, "late", version=TEXT),
        lambda: client.predict(rows.assign(distance=np.inf), "late"),
        lambda: client.predict(rows.assign(distance=TEXT), "late"),
        lambda: client.predict(rows.assign(carrier=NUMBER), "late"),
        lambda: client.predict(rows.rename(columns={"distance": TEXT}), "late"),
        lambda: client.predict(numbers, "late"),
        lambda: client.decision(TEXT),
    ]
    refused = []
    for attempt in attempts:
        try:
            attempt()
        except RequestFailed as failed:
            refused.append(failed.code)
    stub = pb_grpc.DecisionServiceStub(channel)
    for request in (
        pb.PredictRequest(model_name="late", input=pb.Tensor(dtype=1, shape=[1, 3], data=numbers.tobytes() + b"x")),
        pb.PredictRequest(model_name="late", input=to_tensor(numbers), explanation_mode=99),
    ):
        with pytest.raises(grpc.RpcError):
            stub.Predict(
                request, timeout=30, metadata=[("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"), ("x", TEXT)]
            )
    return refused


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_that_was_sent_is_logged(models, rows, tmp_path, capfd, monkeypatch, form):
    def quoting(_self, given):
        raise ValueError(f"could not convert {given}: {NUMBER} {TEXT}")

    with (
        logging_to_stderr("debug", form),
        serving(models, tmp_path / "l") as server,
        Client(server.addresses[0]) as client,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        refused = ask(client, channel, rows)
        assert set(refused) == {"NOT_FOUND", "INVALID_ARGUMENT"}
        assert len(refused) >= 6
        monkeypatch.setattr(Order, "in_turn", lambda _: False)
        monkeypatch.setattr(overlap, "usable_cpus", lambda: 2)
        for owner, name in ((ModelSnapshot, "predict"), (RawFeatures, "matrix"), (ModelSnapshot, "explain")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, quoting if name != "explain" else lambda *_, **__: quoting(None, rows))
                assert "INTERNAL" in ask(client, channel, rows)
        with monkeypatch.context() as patch:
            never = np.zeros(1, np.bool_)
            patch.setattr("xai_service.assemble.check_additivity", lambda phi, *_: (phi[:, 0, 0] + 1, never, False))
            ask(client, channel, rows)
        logging.getLogger("xai_service").debug("the last line")
    log = capfd.readouterr().err
    assert "do not add up" in log
    assert "unexpected error" in log
    assert "the last line" in log
    for sent in ("271828", "2.71828", TEXT, repr(TEXT)[1:-1], "passenger"):
        assert sent not in log
    if form == "json":
        events = [json.loads(line) for line in log.splitlines()]
        assert {"INFO", "ERROR", "DEBUG"} <= {event["level"] for event in events}
        assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, events))
        unexpected = [event for event in events if event["message"] == "unexpected error"]
        assert {event["error"] for event in unexpected} == {"ValueError"}
        assert all(event["model"] == "late" for event in events if "add up" in event["message"])


def test_an_event_of_a_request_names_its_callers_trace(loans, loan_repository, tmp_path, capfd, monkeypatch):
    def no_prediction(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(ModelSnapshot, "predict", no_prediction)
    with (
        logging_to_stderr("error", "json"),
        serving(loan_repository, tmp_path / "l", rpc_threads=1) as server,
        grpc.insecure_channel(server.addresses[0]) as channel,
    ):
        request = pb.PredictRequest(model_name="loan", input=to_tensor(loans.held_out.iloc[:1].to_numpy(np.float32)))
        for metadata in ([("traceparent", f"00-{TRACE}-b7ad6b7169203331-00")], None):
            with pytest.raises(grpc.RpcError):
                pb_grpc.DecisionServiceStub(channel).Predict(request, timeout=30, metadata=metadata)
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event.get("trace_id") for event in events] == [TRACE, None]
