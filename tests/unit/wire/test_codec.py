"""Whatever the bytes of a request say, decoding gives a call or names what is wrong."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from xai_service.errors import InvalidInput
from xai_service.ledger.entry import Explanation
from xai_service.types import Arrival, ExplanationMode, ExplanationStatus, Method, Timings
from xai_service.wire import codec
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import from_tensor, to_tensor


def request(**changes):
    fields = {"model_name": "loan", "input": to_tensor(np.ones((2, 3), np.float32))} | changes
    return pb.PredictRequest(**fields)


def field(message):
    with pytest.raises(InvalidInput) as refused:
        codec.decode_predict(message)
    (violation,) = refused.value.violations
    return violation.field


def test_a_request_becomes_a_call():
    call = codec.decode_predict(
        request(model_version="7", feature_names=["a", "b", "c"], latency_budget_ms=12.5), Arrival(0.25)
    )
    assert (call.model_name, call.model_version) == ("loan", "7")
    assert call.feature_names == ("a", "b", "c")
    assert (call.latency_budget_ms, call.arrival.time_remaining_s) == (12.5, 0.25)
    np.testing.assert_array_equal(call.rows, np.ones((2, 3)))


def test_a_request_says_what_it_wants_of_explanations():
    assert codec.decode_predict(request()).mode is ExplanationMode.COMPLETE_OR_DEFERRED
    for mode in ExplanationMode:
        wire = getattr(pb, f"EXPLANATION_MODE_{mode.name}")
        call = codec.decode_predict(request(explanation_mode=wire, priority=9))
        assert (call.mode, call.priority) == (mode, 9)
    assert field(request(explanation_mode=17)) == "explanation_mode"
    assert field(request(priority=10)) == "priority"


@pytest.mark.parametrize("feature_names", [[], ["a", "b", "c"]], ids=["read natively", "read by protobuf"])
def test_what_the_transport_knows_of_a_call_comes_with_it(feature_names):
    message = request(feature_names=feature_names, latency_budget_ms=5.0, priority=3, explanation_mode=1)
    arrival = Arrival(0.25, "teller", 123, 7)
    call = codec.read_predict(message.SerializeToString(), arrival)
    assert call.arrival is arrival
    assert (call.priority, call.mode, call.latency_budget_ms) == (3, ExplanationMode.NONE, 5.0)


def test_what_is_absent_is_none():
    call = codec.decode_predict(request())
    assert (call.model_version, call.feature_names, call.latency_budget_ms) == (None, None, None)
    # Zero is not absent: it is for the budget to refuse.
    assert codec.decode_predict(request(latency_budget_ms=0.0)).latency_budget_ms == 0.0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"model_name": ""}, "model_name"),
        ({"input": None}, "input"),
        ({"input": pb.Tensor()}, "input.dtype"),
        ({"input": to_tensor(np.ones((2, 3), np.int64))}, "input.dtype"),
        ({"input": to_tensor(np.ones(3, np.float32))}, "input.shape"),
        ({"input": to_tensor(np.ones((1, 2, 3), np.float64))}, "input.shape"),
        ({"input": to_tensor(np.array(1.0, np.float32))}, "input.shape"),
    ],
)
def test_what_is_wrong_is_named(changes, name):
    assert field(request(**changes)) == name


@given(st.lists(st.floats(), min_size=1))
@example([1e300, -1e300, 1e-60, math.nan, math.inf, -0.0, float(np.nextafter(np.float64(0.5), 1))])
def test_float64_is_cast_as_ieee_says(values):
    rows = codec.decode_predict(request(input=to_tensor(np.array([values]))), None).rows
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    with np.errstate(over="ignore"):
        expected = [np.float32(value) for value in values]  # one by one
    np.testing.assert_array_equal(rows[0], expected)
    np.testing.assert_array_equal(np.signbit(rows[0][rows[0] == 0]), [np.signbit(x) for x in expected if x == 0])


def test_a_field_sent_twice_counts_the_last_time():
    first, second = request(model_name="one"), pb.PredictRequest(model_name="two")
    merged = pb.PredictRequest.FromString(first.SerializeToString() + second.SerializeToString())
    assert codec.decode_predict(merged).model_name == "two"


def test_a_tensor_sent_twice_is_merged_and_its_shape_no_longer_fits():
    """Protobuf merges messages: shapes are joined, data is replaced. That must be refused, not guessed at."""
    twice = request().SerializeToString() * 2
    assert field(pb.PredictRequest.FromString(twice)) == "input.data"
    empty = request(input=pb.Tensor(dtype=1, shape=[0, 3])).SerializeToString() * 2
    assert field(pb.PredictRequest.FromString(empty)) == "input.shape"


VALID = request(feature_names=["a", "b"], latency_budget_ms=3.0).SerializeToString()


@st.composite
def mangled(draw):
    """A valid request's bytes, with some replaced, removed, doubled."""
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(st.one_of(st.binary(max_size=200), mangled()))
def test_any_bytes_give_a_call_or_a_refusal(data):
    try:
        message = pb.PredictRequest.FromString(data)
    except DecodeError:
        return  # gRPC refuses it before us
    try:
        call = codec.decode_predict(message)
    except InvalidInput:
        return  # anything else is our fault
    assert call.model_name
    assert call.rows.ndim == 2
    assert call.rows.dtype == np.float32


MESSAGES = st.builds(
    pb.PredictRequest,
    model_name=st.sampled_from(["", "loan", "\U0001f600"]),
    input=st.none()
    | st.builds(
        pb.Tensor,
        dtype=st.integers(-1, 5),
        shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=3),
        data=st.binary(max_size=64).map(lambda data: data[: len(data) // 8 * 8]),
    ),
    feature_names=st.lists(st.text(max_size=3), max_size=3),
    latency_budget_ms=st.none() | st.floats(),
)


@given(MESSAGES)
def test_any_message_gives_a_call_or_a_refusal(message):
    try:
        call = codec.decode_predict(message)
    except InvalidInput:
        return
    assert call.rows.shape == tuple(message.input.shape)


def test_decision_ids():
    decision_id = uuid.uuid4()
    assert codec.decode_decision_id(str(decision_id)) == decision_id


@given(st.text() | st.text("0123456789abcdef-{}_ ", min_size=30, max_size=40))
@example("1" * 1_000_000)
def test_what_is_no_decision_id_is_refused_in_few_words(text):
    try:
        uuid.UUID(text)
    except ValueError:
        with pytest.raises(InvalidInput) as refused:
            codec.decode_decision_id(text)
        assert refused.value.violations[0].field == "decision_id"
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("status", list(ExplanationStatus))
def test_an_explanation_is_encoded_whole(status):
    complete = status is ExplanationStatus.COMPLETE
    explanation = Explanation(
        status=status,
        phi=np.array([[0.1], [-0.0], [1e-300]]) if complete else None,
        base_values=np.array([0.5]),
        residual=1e-9 if complete else math.nan,
        detail="" if complete else "why",
        method=Method("a", "v", "i"),
        explained_at_ns=1_700_000_000_123_456_789,
    )
    message = pb.Explanation.FromString(codec.encode_explanation(explanation).SerializeToString())
    assert message.status == codec.STATUSES[status]
    assert message.HasField("attributions") == complete
    if complete:
        assert from_tensor(message.attributions, "").tobytes() == explanation.phi.tobytes()
    assert from_tensor(message.base_values, "").tolist() == [0.5]
    assert message.detail == explanation.detail
    assert (message.method.algorithm, message.method.variant, message.method.isa) == ("a", "v", "i")
    # When it was explained, unless it was not.
    assert message.HasField("explained_at") == (status is not ExplanationStatus.DEFERRED)
    if message.HasField("explained_at"):
        assert message.explained_at.ToNanoseconds() == explanation.explained_at_ns


def test_every_status_has_its_own_code():
    assert set(codec.STATUSES) == set(ExplanationStatus)
    assert len(set(codec.STATUSES.values())) == len(ExplanationStatus)
    assert pb.EXPLANATION_STATUS_UNSPECIFIED not in codec.STATUSES.values()


def test_no_budget_is_sent_as_zero():
    assert codec._timings(Timings(1, 2, 3, None)).budget_ms == 0
    assert codec._timings(Timings(1, 2, 3, 4.5)).budget_ms == 4.5


def test_what_was_not_measured_is_not_sent():
    sent = codec._timings(Timings(1, None, None, None))
    assert not any(sent.HasField(stage) for stage in ("explain_us", "overlap_us", "record_us", "total_us"))
    sent = codec._timings(Timings(1, 2, 0.0, None, record_us=3, total_us=4))
    assert (sent.HasField("overlap_us"), sent.overlap_us, sent.record_us, sent.total_us) == (True, 0, 3, 4)
