"""Records survive their bytes bit for bit; bytes that do not fit are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import struct
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from xai_service.errors import InternalError
from xai_service.ledger.entry import (
    Decision,
    Explanation,
    Runtime,
    decode_decision,
    decode_explanation,
    encode_decision,
    encode_explanation,
)
from xai_service.ledger.gen.xai.record.v1 import record_pb2
from xai_service.types import ExplanationStatus, Method, Timings

TEXT = st.text(max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
# Any 64 bits: NaNs with payloads, -0.0, subnormals.
DOUBLE = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
DURATION = st.floats(0, 1e9)


def bits(dtype: type, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    unsigned = np.uint32 if dtype is np.float32 else np.uint64
    return npst.arrays(unsigned, shape).map(lambda a: a.view(dtype))


@st.composite
def explanations(draw: st.DrawFn, features: int, outputs: int) -> Explanation:
    status = draw(st.sampled_from(ExplanationStatus))
    complete = status is ExplanationStatus.COMPLETE
    return Explanation(
        status=status,
        phi=draw(bits(np.float64, (features, outputs))) if complete else None,
        base_values=draw(bits(np.float64, (outputs,))),
        residual=draw(DOUBLE),
        detail=draw(TEXT),
        method=Method(draw(TEXT), draw(TEXT), draw(TEXT)),
        explained_at_ns=draw(INT64),
    )


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    names = tuple(draw(st.lists(TEXT, min_size=1, max_size=5)))
    outputs = draw(st.integers(1, 3))
    classes = tuple(draw(st.lists(TEXT, max_size=3)))
    return Decision(
        decision_id=draw(st.uuids()),
        decided_at_ns=draw(INT64),
        model_name=draw(TEXT),
        model_version=draw(TEXT),
        model_sha256=draw(st.binary(min_size=32, max_size=32)),
        feature_names=names,
        input_strings=draw(st.dictionaries(st.integers(0, len(names) - 1), TEXT)),
        input=draw(bits(np.float32, (len(names),))),
        margin=draw(bits(np.float32, (outputs,))),
        probabilities=draw(bits(np.float32, (len(classes),))) if classes else None,
        label=draw(st.none() | INT64),
        prediction=draw(st.none() | bits(np.float32, (outputs,))),
        classes=classes,
        threshold=draw(st.none() | DOUBLE),
        favourable_class=draw(TEXT),
        explanation=draw(explanations(len(names), outputs)),
        runtime=Runtime(draw(TEXT), draw(TEXT), draw(st.integers(0, 2**31 - 1))),
        timings=Timings(
            draw(DURATION),
            *draw(st.just((None, None)) | st.tuples(st.floats(1e-3, 1e6), DURATION)),
            draw(st.none() | st.floats(0, 1e6, exclude_min=True)),
        ),
    )


def exact(value: object) -> object:
    """The value with every float as its bits and every array as type, shape and bytes, so that == means identical."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return struct.pack("<d", value)
    if dataclasses.is_dataclass(value):
        return {f.name: exact(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def example(**changes: Any) -> Decision:
    decision = Decision(
        decision_id=uuid.UUID(int=1),
        decided_at_ns=2,
        model_name="m",
        model_version="1",
        model_sha256=bytes(32),
        feature_names=("a", "b"),
        input=np.array([1, 2], np.float32),
        margin=np.array([0.5], np.float32),
        probabilities=np.array([0.4, 0.6], np.float32),
        label=1,
        prediction=None,
        classes=("no", "yes"),
        threshold=0.5,
        favourable_class="yes",
        explanation=explanation(),
        runtime=Runtime("0.1", "1.2", 1),
        timings=Timings(1, 2, 3, None),
    )
    return dataclasses.replace(decision, **changes)


def explanation(**changes: Any) -> Explanation:
    return dataclasses.replace(
        Explanation(
            status=ExplanationStatus.COMPLETE,
            phi=np.array([[0.25], [0.25]]),
            base_values=np.array([0.0]),
            residual=0.0,
            detail="",
            method=Method("path_dependent", "v", "avx2"),
            explained_at_ns=3,
        ),
        **changes,
    )


@given(decisions())
def test_a_decision_survives_its_bytes(decision: Decision) -> None:
    data = encode_decision(decision)
    assert exact(decode_decision(data)) == exact(decision)
    assert encode_decision(decision) == data


@given(st.uuids(), st.integers(1, 4).flatmap(lambda f: st.integers(1, 3).flatmap(lambda o: explanations(f, o))))
def test_an_explanation_survives_its_bytes(decision_id: uuid.UUID, value: Explanation) -> None:
    read_id, read = decode_explanation(encode_explanation(decision_id, value))
    assert (read_id, exact(read)) == (decision_id, exact(value))


def test_what_lies_after_the_recording_is_not_in_it() -> None:
    read = decode_decision(encode_decision(example(timings=Timings(1, 2, 3, 4, record_us=5, total_us=6))))
    assert read.timings == Timings(1, 2, 3, 4, record_us=None, total_us=None)


def test_what_was_not_measured_is_not_read_back_as_zero() -> None:
    for timings in (Timings(1, None, None, None), Timings(1, 2, 0, 4)):
        assert decode_decision(encode_decision(example(timings=timings))).timings == timings


def test_a_residual_that_was_not_computed_stays_nan() -> None:
    late = explanation(status=ExplanationStatus.DEFERRED, phi=None, residual=math.nan, detail="late")
    assert math.isnan(decode_decision(encode_decision(example(explanation=late))).explanation.residual)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": np.array([1, 2])}, "input: expected float32"),
        ({"input": np.array([1, 2, 3], np.float32)}, "input"),
        ({"input": np.array([], np.float32), "feature_names": ()}, "input"),
        ({"margin": np.array([], np.float32)}, "margin"),
        ({"margin": np.float32(1)}, "cannot be recorded"),
        ({"probabilities": np.array([1], np.float32)}, "probabilities"),
        ({"probabilities": np.array([], np.float32), "classes": ()}, "probabilities"),
        ({"prediction": np.array([1, 2], np.float32)}, "prediction"),
        ({"model_sha256": b"short"}, "model_sha256"),
        ({"model_name": "\ud800"}, "cannot be recorded"),
        ({"label": 2**63}, "cannot be recorded"),
        ({"explanation": explanation(phi=None)}, "exactly when complete"),
        ({"explanation": explanation(status=ExplanationStatus.FAILED)}, "exactly when complete"),
        ({"explanation": explanation(phi=np.zeros((1, 2)))}, "attributions"),
        ({"explanation": explanation(base_values=np.zeros(2))}, "base values"),
    ],
)
def test_a_decision_that_contradicts_itself_is_not_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        encode_decision(example(**changes))


def test_an_explanation_that_contradicts_itself_is_not_written() -> None:
    for bad in (explanation(base_values=np.zeros(2)), explanation(base_values=np.float64(0)), explanation(phi=None)):
        with pytest.raises(InternalError):
            encode_explanation(uuid.UUID(int=1), bad)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decision_id", b"123"),
        ("model_sha256", b""),
        ("feature_names", ["only one"]),
        ("feature_names", []),
        ("input_f32", b"123"),
        ("margin_f32", b""),
        ("margin_f32", bytes(5)),
        ("probabilities_f32", bytes(12)),
        ("prediction_f32", bytes(8)),
        ("classes", []),
        ("explanation", None),
        ("runtime", None),
        ("timings", None),
        ("explanation.status", 0),
        ("explanation.status", 9),
        ("explanation.status", 2),
        ("explanation.attributions_f64", b""),
        ("explanation.attributions_f64", bytes(8)),
        ("explanation.base_values_f64", bytes(16)),
        ("explanation.decision_id", bytes(16)),
    ],
)
def test_bytes_with_a_field_that_does_not_fit_are_refused(field: str, value: Any) -> None:
    record = record_pb2.DecisionRecord.FromString(encode_decision(example()))
    *parents, name = field.split(".")
    message = record.explanation if parents else record
    message.ClearField(name)
    if isinstance(value, list):
        getattr(message, name).extend(value)
    elif value is not None:
        setattr(message, name, value)
    with pytest.raises(InternalError):
        decode_decision(record.SerializeToString())


@given(st.data())
def test_torn_or_foreign_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    whole = encode_decision(example())
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    # Timings come last; every cut takes at least a part of them away.
    with pytest.raises(InternalError):
        decode_decision(cut)
    # Anything but a value or InternalError fails the test.
    for decode in (decode_decision, decode_explanation):
        with contextlib.suppress(InternalError):
            decode(data.draw(st.binary(max_size=200)))


def test_an_amendment_with_lengths_that_do_not_fit_is_refused() -> None:
    whole = record_pb2.ExplanationRecord.FromString(encode_explanation(uuid.UUID(int=1), explanation()))
    for field, value in (("decision_id", b""), ("attributions_f64", bytes(9)), ("base_values_f64", b"")):
        record = record_pb2.ExplanationRecord()
        record.CopyFrom(whole)
        setattr(record, field, value)
        with pytest.raises(InternalError):
            decode_explanation(record.SerializeToString())
