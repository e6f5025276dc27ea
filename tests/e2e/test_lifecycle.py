"""From the first moment to the last: probes while loading, a drain that fails nobody, signals at any time."""

from __future__ import annotations

import concurrent.futures
import signal
import threading

import grpc
import numpy as np
import pytest

from tests.e2e.processes import NO, YES, check, started
from xai_service.client import Client
from xai_service.ledger.store import Ledger
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.tensors import to_tensor


@pytest.fixture
def options(loan_repository, tmp_path):
    return ["--repository", loan_repository, "--ledger", tmp_path / "l.sqlite", "--listen", "127.0.0.1:0"]


# Loading that takes as long as it likes, as of a mount that answers late.
SLOW = """
import time
from xai_service.model.bundle import Bundle
Bundle.load = lambda *_: print("loading", flush=True) or time.sleep(600)
"""


def test_probes_are_answered_while_models_load(options):
    with started(*options, "--health-listen", "127.0.0.1:0", before=SLOW) as process:
        address = process.logged(r"answering health checks on (\S+)")[1]
        names = ("liveness", "startup", "", "xai.v1.DecisionService")
        assert [check(address, name) for name in names] == [YES, NO, NO, None]
        assert "listening on" not in process.log
        process.popen.send_signal(signal.SIGTERM)  # with a probe's connection open or not
        assert process.ended() == 0


def test_sigterm_while_models_load_ends_it_there(options):
    with started(*options, before=SLOW) as process:
        assert process.popen.stdout.readline() == "loading\n"
        process.popen.send_signal(signal.SIGTERM)
        assert process.ended() == 0
        assert process.popen.stdout.read() == ""
        assert "Traceback" not in process.log


def test_probes_while_it_serves_and_drains(options, loans):
    with started(*options, "--health-listen", "127.0.0.1:0", "--drain-delay-s", "30") as process:
        (address,) = process.listening()
        probe = process.logged(r"answering health checks on (\S+)")[1]
        for one in (probe, address):
            names = ("liveness", "startup", "", "xai.v1.DecisionService", "model/loan", "model/none")
            assert [check(one, name) for name in names] == [YES] * 5 + [None]
        process.popen.send_signal(signal.SIGTERM)
        process.logged("draining")
        with Client(address) as client:
            while check(probe) == YES:  # said before it is done, and done by another thread
                pass
            assert [check(probe, name) for name in ("liveness", "", "model/loan")] == [YES, NO, NO]
            assert check(address) == NO
            # Whoever has not heard of it yet is served: nobody is failed.
            assert client.predict(loans.held_out.iloc[:1], "loan").decision_ids
        process.popen.send_signal(signal.SIGTERM)  # a second one ends it at once, whatever the delay
        assert process.ended() == 128 + signal.SIGTERM
        assert "told to stop again" in process.log


@pytest.mark.parametrize("workers", [1, 2])
def test_restarts_under_load_fail_no_request(options, loans, tmp_path, workers):
    """One service after the other on the same port. Callers wait for one to be there, and send nothing twice."""
    row = loans.held_out.iloc[:1].to_numpy(np.float32)
    request = pb.PredictRequest(model_name="loan", input=to_tensor(row))
    answered, failed, stop = [], [], threading.Event()

    def ask(address):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb_grpc.DecisionServiceStub(channel)
            while not stop.is_set():
                try:
                    answered.extend(stub.Predict(request, timeout=60, wait_for_ready=True).decision_ids)
                except grpc.RpcError as error:
                    failed.append((error.code(), error.details()))

    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        callers = []
        for turn in range(4):
            with started(*options, "--workers", workers) as process:
                (address,) = process.listening()
                options[-1] = address
                callers = callers or [threads.submit(ask, address) for _ in range(12)]
                count = len(answered)
                while len(answered) < count + 300 and not failed:
                    stop.wait(0.01)
                if turn == 3:
                    stop.set()
                    concurrent.futures.wait(callers)
                process.popen.send_signal(signal.SIGTERM)
                assert process.ended() == 0
    for caller in callers:
        caller.result()
    assert failed == []
    recorded = 0
    for path in tmp_path.glob("l*.sqlite"):
        with Ledger(path) as ledger:
            recorded += ledger.count()
    assert recorded == len(answered)
