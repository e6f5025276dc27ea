"""`xai.v1` PredictStream by the client and by hand: each request as Predict would answer it."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import numpy as np
import pytest
import xgboost as xgb
from google.rpc import code_pb2

from tests.conftest import serving
from xai_service.client import AsyncClient, Client, PredictRequest, Reply, RequestFailed
from xai_service.errors import FieldViolation
from xai_service.ledger.store import Ledger
from xai_service.model.snapshot import ModelSnapshot
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor


def batches(loans, n=60):
    """Requests of one row or more, every tenth of which is refused."""
    frame = loans.held_out
    for i in range(n):
        if i % 10 == 7:
            yield PredictRequest(frame.iloc[:1], "other")
        elif i % 10 == 8:
            yield PredictRequest(frame.iloc[:1, 1:], "loan", feature_names=list(frame.columns[1:]))
        else:
            yield PredictRequest(frame.iloc[i : i + 1 + i % 4], "loan", latency_budget_ms=2000)


def check(loans, answered):
    assert len(answered) == 60
    margins = loans.booster.predict(xgb.DMatrix(loans.held_out), output_margin=True)
    ids = []
    for request, reply in answered:
        if request.model == "other":
            assert isinstance(reply, RequestFailed)
            assert (reply.code, reply.violations) == ("NOT_FOUND", ())
        elif request.feature_names is not None:
            assert reply.code == "INVALID_ARGUMENT"
            assert all(isinstance(one, FieldViolation) for one in reply.violations)
            assert "features were sent" in reply.message
        else:
            assert isinstance(reply, Reply)
            start = loans.held_out.index.get_loc(request.rows.index[0])
            np.testing.assert_allclose(
                reply.margin[:, 0], margins[start : start + len(request.rows)], rtol=0, atol=1e-5
            )
            assert reply.attributions.shape == (len(request.rows), loans.features.shape[1], 1)
            ids += reply.decision_ids
    assert len({*ids}) == len(ids)
    return ids


def test_the_client_streams(loans, loan_server):
    with Client(loan_server) as client:
        ids = check(loans, list(client.predict_stream(batches(loans))))
        assert client.decision(ids[-1]).decision_id == ids[-1]


@pytest.mark.parametrize("awaited", [True, False])
def test_the_asyncio_client_streams(loans, loan_server, awaited):
    async def source():
        for request in batches(loans):
            await asyncio.sleep(0)
            yield request

    async def ask():
        async with AsyncClient(loan_server) as client:
            requests = source() if awaited else batches(loans)
            return [answered async for answered in client.predict_stream(requests, in_flight=4)]

    check(loans, asyncio.run(ask()))


def test_by_hand_errors_have_codes_and_details(loans, loan_server):
    row = to_tensor(loans.held_out.iloc[:1].to_numpy(np.float32))
    messages = [
        pb.PredictStreamRequest(id="good", request=pb.PredictRequest(model_name="loan", input=row)),
        pb.PredictStreamRequest(id="nothing"),
        pb.PredictStreamRequest(id="", request=pb.PredictRequest(model_name="other", input=row)),
    ]
    with grpc.insecure_channel(loan_server) as channel:
        answers = {one.id: one for one in pb_grpc.DecisionServiceStub(channel).PredictStream(iter(messages))}
    assert answers["good"].response.model_name == "loan"
    assert answers["nothing"].error.code == code_pb2.INVALID_ARGUMENT
    assert len(answers["nothing"].error.details) == 2
    assert answers[""].error.code == code_pb2.NOT_FOUND


@pytest.fixture
def held(monkeypatch):
    """Holds predictions until `release` is set; ``begun`` counts them."""

    class Held:
        begun = threading.Semaphore(0)
        release = threading.Event()

    predict = ModelSnapshot.predict

    def hold(self, rows):
        Held.begun.release()
        assert Held.release.wait(60)
        return predict(self, rows)

    monkeypatch.setattr(ModelSnapshot, "predict", hold)
    yield Held
    Held.release.set()


def test_drain_answers_what_is_under_way(loans, loan_repository, tmp_path, held):
    go_on = threading.Event()

    def requests():
        for i in range(4):
            yield PredictRequest(loans.held_out.iloc[i : i + 1], "loan")
        assert go_on.wait(60)  # the stream stays open

    answered, ended = [], []

    def ask(address):
        with Client(address) as client:
            try:
                answered.extend(client.predict_stream(requests()))
            except RequestFailed as failed:
                ended.append(failed)

    held.release.clear()
    with serving(loan_repository, tmp_path / "l.sqlite", rpc_threads=4, drain_s=30) as server:
        caller = threading.Thread(target=ask, args=(server.addresses[0],))
        caller.start()
        for _ in range(4):
            assert held.begun.acquire(timeout=60)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        while not server._streams._draining:
            time.sleep(0.001)
        held.release.set()
        stopping.join(60)
        assert not stopping.is_alive()
    go_on.set()
    caller.join(60)
    assert [failed.code for failed in ended] == ["UNAVAILABLE"]
    assert len(answered) == 4
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.count() == 4
