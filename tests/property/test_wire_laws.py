"""The hot path's own codec says what protobuf says, or nothing."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xai_service._wire import ReplyParts, read_predict
from xai_service.wire.gen.xai.v1 import decision_service_pb2 as pb
from xai_service.wire.tensors import to_tensor

MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70))
REQUESTS = st.builds(
    pb.PredictRequest,
    model_name=st.text(max_size=40),
    model_version=st.text(max_size=5),
    input=st.none()
    | MATRICES.map(to_tensor)
    | st.builds(
        pb.Tensor, dtype=st.integers(0, 3), shape=st.lists(st.integers(0, 9), max_size=3), data=st.binary(max_size=40)
    ),
    feature_names=st.lists(st.text(max_size=3), max_size=2),
    latency_budget_ms=st.none() | st.floats(),
    explanation_mode=st.integers(0, 5),
    priority=st.integers(0, 300),
    columns=st.lists(st.builds(pb.Column, name=st.text(max_size=3)), max_size=1),
)


def check(message):
    """What is read is what protobuf reads; what protobuf refuses is not read."""
    read = read_predict(message)
    if read is None:
        return None
    request = pb.PredictRequest.FromString(message)
    name, version, rows, budget, mode, priority = read
    assert (name, version, mode, priority) == (
        request.model_name,
        request.model_version,
        request.explanation_mode,
        request.priority,
    )
    assert repr(budget) == repr(request.latency_budget_ms if request.HasField("latency_budget_ms") else None)
    assert request.input.dtype == pb.DATA_TYPE_FLOAT32
    assert rows.shape == tuple(request.input.shape)
    assert rows.tobytes() == request.input.data
    assert rows.flags.aligned
    assert not request.feature_names
    assert not request.columns
    return read


@given(REQUESTS)
def test_a_request_is_read_as_protobuf_reads_it(request):
    check(request.SerializeToString())


@given(MATRICES, st.none() | st.floats(), st.integers(0, 3), st.integers(0, 9))
def test_the_usual_request_is_read(rows, budget, mode, priority):
    message = pb.PredictRequest(
        model_name="loan", input=to_tensor(rows), latency_budget_ms=budget, explanation_mode=mode, priority=priority
    ).SerializeToString()
    assert check(message) is not None


@given(st.data())
@settings(max_examples=500)
def test_damaged_bytes_are_read_as_protobuf_reads_them_or_not_at_all(data):
    request = pb.PredictRequest(model_name="loan", model_version="1", input=to_tensor(np.ones((2, 3), np.float32)))
    message = bytearray(request.SerializeToString() + data.draw(st.binary(max_size=12)))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.integers(0, 255))
    message = bytes(message[: data.draw(st.integers(0, len(message)))])
    try:
        pb.PredictRequest.FromString(message)
    except DecodeError:
        assert read_predict(message) is None
    else:
        check(message)


@example(b"")
@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_protobuf_reads_them_or_not_at_all(message):
    try:
        pb.PredictRequest.FromString(message)
    except DecodeError:
        assert read_predict(message) is None
    else:
        check(message)


def _optional(array):
    return None if array is None else to_tensor(array)


@given(st.data())
def test_a_reply_is_the_message_that_protobuf_would_write(data):
    n, more, features, outputs = (data.draw(st.integers(*bounds)) for bounds in ((1, 40), (0, 5), (1, 9), (1, 3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    total = n + more
    begin = data.draw(st.integers(0, more))
    rows = slice(begin, begin + n)
    margin = rng.normal(size=(total, outputs)).astype(np.float32)
    probabilities = data.draw(st.sampled_from([None, rng.random((total, 2), np.float32)]))
    labels = data.draw(st.sampled_from([None, rng.integers(0, 2, total)]))
    prediction = data.draw(st.sampled_from([None, margin + 1]))
    phi = data.draw(st.sampled_from([None, rng.normal(size=(total, features, outputs))]))
    residual = rng.random(total)
    statuses = bytes(rng.integers(1, 5, n).tolist())
    detail = data.draw(st.text(max_size=300))
    method = pb.Method(
        algorithm="path_dependent_treeshap", variant="row-f32", isa=data.draw(st.sampled_from(["", "avx2"]))
    )
    times = [data.draw(st.sampled_from([0.0, 1.5, float("nan")])) for _ in range(4)]
    predict_us, budget_ms = (data.draw(st.sampled_from([0.0, 30.5])) for _ in range(2))
    ids = [uuid.UUID(bytes=rng.bytes(16)) for _ in range(n)]
    base = np.array([0.25] * outputs)
    head = pb.PredictResponse(model_name="loan", model_version="12", model_sha256="ab" * 32)
    names = pb.PredictResponse(classes=["no", "yes"], feature_names=["a", "ö"])
    parts = ReplyParts(
        head.SerializeToString(),
        names.SerializeToString(),
        pb.Explanations(base_values=to_tensor(base)).SerializeToString(),
    )
    message = parts.write(
        begin, begin + n, b"".join(one.bytes for one in ids), margin, probabilities, labels, prediction, statuses, phi,
        residual, detail.encode(), method.SerializeToString(), predict_us, *times, budget_ms,
    )  # fmt: skip
    explain, overlap, record, whole = (None if math.isnan(one) else one for one in times)
    expected = pb.PredictResponse(
        decision_ids=[str(one) for one in ids],
        margin=to_tensor(margin[rows]),
        probabilities=_optional(None if probabilities is None else probabilities[rows]),
        labels=_optional(None if labels is None else labels[rows]),
        prediction=_optional(None if prediction is None else prediction[rows]),
        explanations=pb.Explanations(
            statuses=list(statuses),
            attributions=_optional(None if phi is None else phi[rows]),
            base_values=to_tensor(base),
            additivity_residual=to_tensor(residual[rows]),
            detail=detail,
            method=method,
        ),
        timings=pb.Timings(
            predict_us=predict_us, explain_us=explain, overlap_us=overlap, record_us=record, total_us=whole,
            budget_ms=budget_ms,
        ),
    )  # fmt: skip
    expected.MergeFrom(head)
    expected.MergeFrom(names)
    assert pb.PredictResponse.FromString(message) == expected
    assert message == expected.SerializeToString(deterministic=True)


def test_a_reply_is_not_written_from_arrays_of_other_shapes():
    parts = ReplyParts(b"", b"", b"")

    def write(begin, end, margin, ids=b"\0" * 32, statuses=b"\1\1"):
        parts.write(begin, end, ids, margin, None, None, None, statuses, None, np.zeros(4), b"", b"", *[0.0] * 6)

    write(0, 2, np.zeros((4, 1), np.float32))
    for begin, end, margin in [
        (0, 5, np.zeros((4, 1), np.float32)),
        (-1, 1, np.zeros((4, 1), np.float32)),
        (2, 1, np.zeros((4, 1), np.float32)),
        (0, 2, np.zeros((4, 2), np.float32)[:, :1]),
        (0, 2, np.zeros((4, 1), np.float16)),
        (0, 2, [[1.0], [2.0]]),
        (0, 2, np.float32(1)),
    ]:
        with pytest.raises(ValueError, match=r"rows|array"):
            write(begin, end, margin)
    with pytest.raises(ValueError, match="as many ids"):
        write(0, 2, np.zeros((4, 1), np.float32), ids=b"")
    with pytest.raises(ValueError, match="as many ids"):
        write(0, 2, np.zeros((4, 1), np.float32), statuses=b"\1")
