"""Whatever bytes a caller of the Open Inference Protocol sends: an answer, or an error that says what is wrong.

The whole path below gRPC is real: servicer, service, ledger. Good requests are changed field by field and byte by byte.
"""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.inference import CONTENTS, arrays, matrix, request
from xai_service.config import ServiceConfig
from xai_service.errors import InternalError, XaiError
from xai_service.ledger.store import Ledger
from xai_service.model.repository import Repository
from xai_service.service import ExplainService
from xai_service.types import HERE
from xai_service.wire.gen.inference import grpc_service_pb2 as pb
from xai_service.wire.inference import InferenceServicer

CONTEXT = SimpleNamespace(time_remaining=lambda: None, peer=lambda: "ipv4:127.0.0.1:1", invocation_metadata=lambda: ())
MAX_ROWS = 50
FEATURES = 50
INTEGERS = st.one_of(st.integers(-2, 60), st.sampled_from([1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]))
NAMES = st.sampled_from(["input", "", "margin", "label", "treeshap_output", "atotinc", "nothing", "x" * 300])
PARAMETERS = st.sampled_from(
    ["latency_budget_ms", "timeout", "priority", "explanation_mode", "missing_string", "sequence_id", "other"]
)
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def servicer(loan_repository, tmp_path_factory):
    config = ServiceConfig(
        repository=loan_repository,
        ledger=tmp_path_factory.mktemp("bytes") / "ledger.sqlite",
        max_rows_per_request=MAX_ROWS,
    )
    service = ExplainService(config, Repository(loan_repository), Ledger(config.ledger))
    service.start()
    yield InferenceServicer(service)
    service.close()


def asked(servicer, data):
    """An answer that holds together, or the error; anything else, and an internal one, fails the test."""
    try:
        answer = servicer.read(data, HERE).ask(servicer._service)
    except InternalError:
        raise
    except XaiError:
        answer = None
    else:
        response = pb.ModelInferResponse.FromString(answer)
        for values in arrays(response).values():
            assert 1 <= len(values) <= MAX_ROWS
    streamed = pb.ModelStreamInferResponse.FromString(servicer.answer_streamed(data, CONTEXT))
    assert bool(streamed.error_message) == (answer is None)
    return answer


@SETTINGS
@given(data=st.binary(max_size=300))
def test_any_bytes(servicer, data):
    asked(servicer, data)


@st.composite
def _tensors(draw):
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=draw(NAMES),
        datatype=draw(st.sampled_from(["FP32", "FP64", "INT32", "INT64", "BYTES", "FP16", "BOOL", ""])),
        shape=draw(st.lists(INTEGERS, max_size=4)),
    )
    if draw(st.booleans()):
        field = draw(st.sampled_from([*CONTENTS.values(), "bool_contents", "uint64_contents"]))
        values = st.binary(max_size=5) if field == "bytes_contents" else st.integers(0, 1)
        getattr(tensor.contents, field).extend(draw(st.lists(values, max_size=120)))
    if draw(st.integers(0, 9)) == 0:
        tensor.parameters["shared_memory_region"].string_param = "x"
    return tensor


@st.composite
def _requests(draw):
    message = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(["loan", "loan", "loan", "", "other"])),
        model_version=draw(st.sampled_from(["", "", "1", "2", "x"])),
        id=draw(st.text(max_size=5)),
        inputs=draw(st.lists(_tensors(), max_size=4)),
        outputs=[
            pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in draw(st.lists(NAMES, max_size=3))
        ],
        raw_input_contents=draw(st.lists(st.binary(max_size=40), max_size=4)),
    )
    for name in draw(st.lists(PARAMETERS, max_size=3)):
        choice = message.parameters[name]
        kind = draw(st.sampled_from(["int64_param", "uint64_param", "double_param", "string_param", "bool_param"]))
        value = {
            "int64_param": st.integers(-(1 << 63), (1 << 63) - 1),
            "uint64_param": st.integers(0, (1 << 64) - 1),
            "double_param": st.floats(),
            "string_param": st.sampled_from(["", "none", "required", "1", "-1", "nan", "1e999", "é"]),
            "bool_param": st.booleans(),
        }
        setattr(choice, kind, draw(value[kind]))
    return message


@SETTINGS
@given(message=_requests())
def test_any_message(servicer, message):
    asked(servicer, message.SerializeToString())


@SETTINGS
@given(data=st.data())
def test_a_good_request_with_one_thing_changed(servicer, loans, data):
    rows = loans.held_out.iloc[: data.draw(st.integers(1, 3))].to_numpy(np.float32)
    message = request(inputs=matrix(rows), raw=data.draw(st.booleans()), outputs=["margin", "treeshap_output"])
    assert asked(servicer, message.SerializeToString()) is not None
    change = data.draw(st.sampled_from(["shape", "datatype", "name", "more", "fewer", "input", "output", "nothing"]))
    tensor = message.inputs[0]
    if change == "shape":
        tensor.shape[:] = data.draw(st.lists(INTEGERS, max_size=3))
    elif change == "datatype":
        tensor.datatype = data.draw(st.sampled_from(["FP64", "INT64", "BYTES", "fp32"]))
    elif change == "name":
        tensor.name = data.draw(NAMES)
    elif change == "more":
        message.raw_input_contents.append(data.draw(st.binary(max_size=9)))
    elif change == "fewer" and message.raw_input_contents:
        message.raw_input_contents[0] = message.raw_input_contents[0][: data.draw(st.integers(0, 199))]
    elif change == "input":
        message.inputs.append(tensor)
    elif change == "output":
        message.outputs.add(name=data.draw(NAMES))
    asked(servicer, message.SerializeToString())


@SETTINGS
@given(data=st.data())
def test_a_good_request_with_bytes_changed(servicer, loans, data):
    rows = loans.held_out.iloc[:2].to_numpy(np.float32)
    good = bytearray(request(inputs=matrix(rows), id="1").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))
    asked(servicer, bytes(good[:cut]))


@pytest.mark.parametrize("shape", [[1 << 62, 50], [1 << 40], [MAX_ROWS * 1000, 1], [0, 50], [-1, 50]])
@pytest.mark.parametrize("raw", [True, False])
def test_a_claim_of_much_costs_little(servicer, shape, raw):
    message = request(inputs=[("input", "FP32", np.zeros((2, 50), np.float32), shape)], raw=raw)
    tracemalloc.start()
    try:
        assert asked(servicer, message.SerializeToString()) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_rows_than_allowed_are_refused(servicer):
    rows = np.zeros((MAX_ROWS + 1, FEATURES), np.float32)
    with pytest.raises(XaiError, match="51 rows are more than the limit of 50"):
        servicer.read(request(inputs=matrix(rows)).SerializeToString(), HERE).ask(servicer._service)
