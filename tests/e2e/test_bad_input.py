"""Each bad input: a clear error with the right status and field, and a server that goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3

import grpc
import numpy as np
import onnx
import pytest
import xgboost as xgb
from grpc_status import rpc_status

from tests.conftest import serving
from xai_service.client import Client, RequestFailed
from xai_service.config import ServiceConfig
from xai_service.errors import Unavailable
from xai_service.pack import pack
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.gen.xai.v1 import decision_service_pb2_grpc as pb_grpc
from xai_service.wire.server import serve
from xai_service.wire.tensors import to_tensor


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """``ok`` (no missing values), ``altered`` (a flipped byte), ``coverless`` (digests right, covers gone)."""
    folder = tmp_path_factory.mktemp("repository")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    booster = xgb.train({"max_depth": 3, "nthread": 1}, xgb.DMatrix(X, X[:, 0] + X[:, 1] ** 2), 10)
    for name in ("ok", "altered", "coverless"):
        pack(booster, X, name=name, out=folder, feature_names=["a", "b", "c", "d"])
    altered = folder / "altered/1/model.onnx"
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    _rewrite(folder / "coverless/1", _without_covers)
    return folder


def _without_covers(model):
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.name != "nodes_hitrates"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _rewrite(bundle, change):
    """Changes a bundle's model and makes the manifest agree."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    data = model.SerializeToString(deterministic=True)
    (bundle / "model.onnx").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def address(repository, tmp_path):
    with serving(repository, tmp_path / "ledger.sqlite", max_rows_per_request=100) as server:
        yield server.addresses[0]


GOOD = np.zeros((2, 4), np.float32)


def _row(**values):
    row = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0} | values
    return np.array([[0, 0, 0, 0], list(row.values())], np.float32)


CASES = {
    "too few features": ({"rows": np.zeros((1, 3))}, "INVALID_ARGUMENT", "input.shape", "3 features were sent"),
    "no features": ({"rows": np.zeros((1, 0))}, "INVALID_ARGUMENT", "input.shape", "0 features were sent"),
    "empty batch": ({"rows": np.zeros((0, 4))}, "INVALID_ARGUMENT", "input.shape", "empty"),
    "too many rows": ({"rows": np.zeros((101, 4))}, "INVALID_ARGUMENT", "input.shape", "limit of 100"),
    "infinite": ({"rows": _row(b=np.inf)}, "INVALID_ARGUMENT", "input[:, 1]", "'b' holds 1 infinite"),
    "float64 overflow": ({"rows": np.full((1, 4), 1e300)}, "INVALID_ARGUMENT", "input[:, 0]", "infinite"),
    "missing": ({"rows": _row(c=np.nan)}, "INVALID_ARGUMENT", "input[:, 2]", "first in row 1"),
    "other names": ({"feature_names": list("abdc")}, "INVALID_ARGUMENT", "feature_names[2]", "'d' was sent"),
    "too few names": ({"feature_names": ["a"]}, "INVALID_ARGUMENT", "feature_names", "1 names were sent"),
    "budget zero": ({"latency_budget_ms": 0.0}, "INVALID_ARGUMENT", "latency_budget_ms", "positive"),
    "budget nan": ({"latency_budget_ms": float("nan")}, "INVALID_ARGUMENT", "latency_budget_ms", "positive"),
    "no model name": ({"model": ""}, "INVALID_ARGUMENT", "model_name", "empty"),
    "unknown model": ({"model": "loan"}, "NOT_FOUND", None, "there are: 'altered', 'coverless', 'ok'"),
    "unknown version": ({"model": "ok", "version": "7"}, "NOT_FOUND", None, "there are: '1'"),
    "altered bundle": ({"model": "altered"}, "FAILED_PRECONDITION", None, "model.onnx"),
    "no covers": ({"model": "coverless"}, "FAILED_PRECONDITION", None, "xai pack"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_request_is_refused_and_the_next_one_is_served(address, case):
    change, code, field, text = CASES[case]
    arguments = {"rows": GOOD, "model": "ok"} | change
    with Client(address) as client:
        with pytest.raises(RequestFailed) as failed:
            client.predict(arguments.pop("rows"), arguments.pop("model"), **arguments)
        assert failed.value.code == code
        assert text in str(failed.value)
        if field is not None:
            assert field in [violation.field for violation in failed.value.violations]
        assert len(client.predict(GOOD, "ok").decision_ids) == 2


RAW = {
    "no input": (pb.PredictRequest(model_name="ok"), "input", "absent"),
    "integers": (
        pb.PredictRequest(model_name="ok", input=to_tensor(np.zeros((1, 4), np.int64))),
        "input.dtype",
        "INT64",
    ),
    "unknown dtype": (pb.PredictRequest(model_name="ok", input=pb.Tensor(dtype=99, shape=[1, 4])), "input.dtype", "99"),
    "one dimension": (
        pb.PredictRequest(model_name="ok", input=to_tensor(np.zeros(4, np.float32))),
        "input.shape",
        "[4]",
    ),
    "short data": (
        pb.PredictRequest(model_name="ok", input=pb.Tensor(dtype=1, shape=[1, 4], data=b"\0" * 15)),
        "input.data",
        "takes 16 bytes",
    ),
    "huge shape": (
        pb.PredictRequest(model_name="ok", input=pb.Tensor(dtype=1, shape=[1 << 62, 1 << 62])),
        "input.data",
        "takes",
    ),
    "negative shape": (
        pb.PredictRequest(model_name="ok", input=pb.Tensor(dtype=1, shape=[-1, 4])),
        "input.shape",
        "-1",
    ),
    "many dimensions": (
        pb.PredictRequest(model_name="ok", input=pb.Tensor(dtype=1, shape=[1] * 99)),
        "input.shape",
        "8",
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_malformed_tensors_are_refused(address, case):
    request, field, text = RAW[case]
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            pb_grpc.DecisionServiceStub(channel).Predict(request, timeout=10)
        status = rpc_status.from_call(failed.value)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in status.message
        assert any(field in detail.value.decode("utf-8", "replace") for detail in status.details)


@pytest.mark.parametrize("method", ["Predict", "GetDecision", "GetExplanation", "ListModels"])
def test_garbage_bytes_do_not_hurt(address, method):
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/xai.v1.DecisionService/{method}")
        for garbage in (b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256))):
            with pytest.raises(grpc.RpcError) as failed:
                call(garbage, timeout=10)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with Client(address) as client:
        assert client.predict(GOOD, "ok").labels is None


@pytest.mark.parametrize(("decision_id", "code"), [("nonsense", "INVALID_ARGUMENT"), ("0" * 32, "NOT_FOUND")])
def test_wrong_decision_ids(address, decision_id, code):
    with Client(address) as client:
        for ask in (client.decision, client.explanation):
            with pytest.raises(RequestFailed) as failed:
                ask(decision_id)
            assert failed.value.code == code


def test_models_are_listed_with_the_reason_why_they_do_not_serve(address):
    with Client(address) as client:
        models = {model.model_name: model for model in client.models()}
    assert models["ok"].ready
    assert not models["altered"].ready
    assert "model.onnx" in models["altered"].reason
    assert "covers" in models["coverless"].reason


def test_refused_requests_record_nothing(address, tmp_path):
    with Client(address) as client:
        for change in ({"rows": _row(c=np.nan)}, {"rows": np.zeros((0, 4))}):
            with pytest.raises(RequestFailed):
                client.predict(change["rows"], "ok")
        client.predict(GOOD, "ok")
    # The server's connection holds the only lock that matters here, on writing; a reader may look beside it.
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/ledger.sqlite?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM entries").fetchone() == (2,)


def test_a_repository_with_nothing_to_serve_is_refused(repository, tmp_path):
    broken = tmp_path / "repository"
    shutil.copytree(repository / "altered", broken / "altered")
    with pytest.raises(Unavailable, match=r"altered 1: .*model\.onnx"):
        serve(ServiceConfig(repository=broken, ledger=tmp_path / "l.sqlite"))
