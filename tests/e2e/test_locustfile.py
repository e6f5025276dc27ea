"""The locustfile as its readers start it: each kind of caller against a server, and what it says when it cannot."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from xai_service.demo import data as loan_data
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc

LOCUSTFILE = Path(__file__).resolve().parents[2] / "bench" / "locustfile.py"


def _locust(*arguments):
    # A process of its own: importing locust patches the standard library.
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(LOCUSTFILE),
        "--headless",
        "--only-summary",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_kind_is_sent_counted_and_written(loan_server, loans, tmp_path):
    rows, out = tmp_path / "rows.npy", tmp_path / "out" / "locust.json"
    np.save(rows, loans.held_out.to_numpy())
    done = _locust(
        *("--host", loan_server, "-u", 14, "-r", 14, "-t", "6s", "--csv", tmp_path / "out"),
        *("--xai-rate", 10, "--xai-budget-ms", 60_000, "--xai-deadline-ms", 60_000, "--xai-batch", 7),
        *("--xai-rows", rows, "--xai-json", out),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(out.read_text())
    kinds = {kind["name"]: kind for kind in document["kinds"]}
    unsupported = document["unsupported"]
    # What other protocols the server lacks is said, and is no failure of the rest.
    assert set(unsupported) <= {"Stream", "Inference"}
    for name in unsupported:
        assert f"without {name}: " in done.stdout
    explained = {"Explained", "Batch", "MustHave", "Stream", "Inference"} - set(unsupported)
    for name in explained:
        # The model's own budget of 2 s binds, which a machine that is busy enough exceeds.
        assert kinds[name]["explained_share"] > 0.5, kinds[name]
        assert kinds[name]["error_share"] == kinds[name]["failed_share"] == 0.0, kinds[name]
    assert kinds["PredictOnly"]["predicted_share"] == 1.0
    assert kinds["PredictOnly"]["explained_in_budget"] is None
    assert kinds["Deferred"]["error_share"] == 0.0
    for name in explained | {"PredictOnly", "Deferred"}:
        assert kinds[name]["requests"] > 0
        assert 0 < kinds[name]["p50_ms"] <= kinds[name]["p99_9_ms"]
    assert kinds["Batch"]["rows_per_request"] == 7
    assert document["model"]["name"] == "loan"
    header, *lines = (tmp_path / "out_xai.csv").read_text().splitlines()
    assert "explained_in_budget" in header
    assert len(lines) == len(kinds)
    assert "Explained " in done.stdout


def test_what_cannot_be_asked_ends_at_once_and_is_said(loan_server, tmp_path):
    done = _locust("--host", loan_server, "-u", 1, "-t", "30s", "Explained")
    assert done.returncode == 2
    assert "--xai-rows" in done.stderr  # the tests' model is neither the demo's nor the benchmark's
    done = _locust("--host", loan_server, "-u", 1, "-t", "30s", "--xai-model", "house", "Explained")
    assert done.returncode == 2
    assert "serves: loan" in done.stderr
    done = _locust("--host", f"unix:{tmp_path}/nobody.sock", "-u", 1, "-t", "30s", "Explained")
    assert done.returncode == 2
    assert "no answer from" in done.stderr


def test_the_options_are_explained():
    done = subprocess.run([sys.executable, str(LOCUSTFILE)], capture_output=True, text=True, timeout=60, check=True)
    assert "--xai-rate" in done.stdout
    assert "intended start" in done.stdout


class Streams(pb_grpc.DecisionServiceServicer):
    """Answers streams by turns: four explained of five, of which it holds one back, then one refused."""

    def __init__(self, ends_after=None):
        self.ends_after, self.opened = ends_after, 0

    def ListModels(self, _request, _context):  # noqa: N802
        names = [feature.name for feature in loan_data.FEATURES]
        return pb.ListModelsResponse(models=[pb.ModelStatus(model_name="loan", ready=True, feature_names=names)])

    def PredictStream(self, request_iterator, _context):  # noqa: N802
        self.opened += 1
        explained = pb.PredictResponse(explanations=pb.Explanations(statuses=[pb.EXPLANATION_STATUS_COMPLETE]))
        held = None
        for number, request in enumerate(itertools.islice(request_iterator, self.ends_after)):
            assert len(request.request.input.data) == 4 * len(loan_data.FEATURES)
            if number % 5 == 4:
                error = pb.CallError(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full")
                yield pb.PredictStreamResponse(id=request.id, error=error)
            elif number % 5 == 0:
                held = request.id
            else:
                yield pb.PredictStreamResponse(id=request.id, response=explained)
                if held:
                    yield pb.PredictStreamResponse(id=held, response=explained)
                held = None


@pytest.mark.parametrize("ends_after", [None, 20])
def test_streams_are_counted_by_id_and_opened_again(tmp_path, ends_after):
    servicer = Streams(ends_after)
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_DecisionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    out = tmp_path / "locust.json"
    try:
        arguments = ("--xai-rate", 200, "--xai-json", out, "--exit-code-on-error", 0, "Stream")
        done = _locust("--host", f"127.0.0.1:{port}", "-u", 2, "-r", 2, "-t", "3s", *arguments)
    finally:
        server.stop(None).wait()
    assert done.returncode == 0, done.stderr
    (stream,) = json.loads(out.read_text())["kinds"]
    assert stream["requests"] >= 20
    assert stream["shed_share"] == pytest.approx(0.2, abs=0.1)
    if ends_after is None:
        assert servicer.opened == 2
        assert stream["error_share"] == 0.0
        assert stream["explained_share"] == pytest.approx(0.8, abs=0.1)
    else:
        # What was under way when the server ended the stream is an error; the next request opens another.
        assert servicer.opened > 2
        assert stream["explained_share"] > 0.5
