"""ModelInfer's requests and responses: what each field comes to, and what is refused with its place."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from tests.inference import arrays, matrix, request, status_of
from xai_service.errors import FieldViolation, InvalidInput, Unavailable
from xai_service.types import HERE, Arrival, ExplanationMode, Explanations, ExplanationStatus, Method, Prediction
from xai_service.wire.fields import parse
from xai_service.wire.gen.inference import grpc_service_pb2 as pb
from xai_service.wire.inference_codec import decode_infer, encode_infer, in_their_terms
from xai_service.wire.inference_models import InferenceSignature

COMPLETE, DEFERRED, FAILED = ExplanationStatus.COMPLETE, ExplanationStatus.DEFERRED, ExplanationStatus.FAILED
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(task="binary_classification", strings=(), n_outputs=1, classes=("no", "yes")):
    """What the codec asks of a snapshot."""
    return SimpleNamespace(
        feature_names=("a", "b", "c"),
        n_outputs=n_outputs,
        raw=SimpleNamespace(codes={i: {} for i in strings}),
        manifest=SimpleNamespace(name="loan", version="3", task=task, classes=classes),
    )


NUMBERS, STRINGS = InferenceSignature.of(model()), InferenceSignature.of(model(strings=(1,)))


def decode(message, signature=NUMBERS, arrival=HERE):
    return decode_infer(parse(pb.ModelInferRequest, message.SerializeToString()), signature, arrival)


def refused(message, field, says, signature=NUMBERS):
    with pytest.raises(InvalidInput, match=says) as caught:
        decode(message, signature)
    (violation,) = caught.value.violations
    assert violation.field == field


def parameters(**values):
    message = request(inputs=matrix(ROWS))
    for name, value in values.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    return message


def test_a_matrix_becomes_a_call():
    infer = decode(request(inputs=matrix(ROWS), model_version="2", id="x"), arrival=Arrival(0.5))
    call = infer.predict
    assert (call.model_name, call.model_version, call.arrival.time_remaining_s) == ("loan", "2", 0.5)
    assert (call.columns, call.feature_names, call.latency_budget_ms, call.priority) == ((), None, None, 0)
    np.testing.assert_array_equal(call.rows, ROWS)
    assert infer.outputs == ("label", "probabilities", "margin", "treeshap_output", "decision_id")
    assert call.mode is ExplanationMode.COMPLETE_OR_DEFERRED


@pytest.mark.parametrize("raw", [True, False])
def test_columns_by_name(raw):
    inputs = [
        ("b", "BYTES", [b"x", b""], [2]),
        ("a", "FP64", np.array([[0.1], [2.0]])),
        ("c", "INT32", [3, 4]),
    ]
    message = request(inputs=inputs, raw=raw)
    for signature in (STRINGS, NUMBERS):
        call = decode(message, signature).predict
        assert [one.name for one in call.columns] == ["b", "a", "c"]
        assert call.rows.shape == (2, 0)
        assert call.columns[0].values == ("x", "")
        np.testing.assert_array_equal(call.columns[1].values, np.array([0.1, 2.0], np.float32))
        np.testing.assert_array_equal(call.columns[2].values, [3, 4])
    message.parameters["missing_string"].string_param = ""
    assert decode(message, STRINGS).predict.columns[0].values == ("x", None)


def test_explained_is_what_was_asked_for():
    for outputs, mode in (
        (("treeshap_output",), ExplanationMode.COMPLETE_OR_DEFERRED),
        (("margin", "decision_id", "explanation_status"), ExplanationMode.NONE),
    ):
        infer = decode(request(inputs=matrix(ROWS), outputs=outputs))
        assert (infer.outputs, infer.predict.mode) == (outputs, mode)
        for name in ("none", "complete_or_deferred", "required"):
            message = request(inputs=matrix(ROWS), outputs=outputs)
            message.parameters["explanation_mode"].string_param = name
            assert decode(message).predict.mode.value == name.replace("_", " ")


@pytest.mark.parametrize(
    ("sent", "budget_ms"),
    [
        ({"latency_budget_ms": 20}, 20),
        ({"latency_budget_ms": 2.5}, 2.5),
        ({"latency_budget_ms": "2.5"}, 2.5),
        ({"timeout": 1500}, 1.5),
        ({"timeout": "1500"}, 1.5),
        ({"timeout": 0}, None),
        ({"timeout": 1500, "latency_budget_ms": 20}, 20),
        ({"content_type": "pd", "latency": 7}, None),
    ],
)
def test_budgets(sent, budget_ms):
    assert decode(parameters(**sent)).predict.latency_budget_ms == budget_ms


@pytest.mark.parametrize(("sent", "ours"), [(0, 0), (1, 0), (2, 1), (10, 9), (11, 9), (1 << 62, 9), ("4", 3)])
def test_tritons_priorities(sent, ours):
    """1 is served first there, and 0 means the default; here 0 is both, and 9 is shed first."""
    assert decode(parameters(priority=sent)).predict.priority == ours
    if isinstance(sent, int):
        message = request(inputs=matrix(ROWS))
        message.parameters["priority"].uint64_param = sent
        assert decode(message).predict.priority == ours


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"latency_budget_ms": True}, "is not a number"),
        ({"latency_budget_ms": "soon"}, "'soon' is not a number"),
        ({"latency_budget_ms": "9" * 5000 + "x"}, "'9{40}' is not a number"),
        ({"timeout": -1}, "-1 is no number of microseconds"),
        ({"timeout": "nan"}, "nan is no number"),
        ({"priority": -1}, "-1 is no priority"),
        ({"priority": 1.5}, r"1\.5 is no priority"),
        ({"priority": "inf"}, "inf is no priority"),
        ({"explanation_mode": "all"}, "'all' is none of none, complete_or_deferred, required"),
        ({"explanation_mode": 1}, "is not a string"),
        ({"missing_string": 0}, "is not a string"),
        ({"sequence_id": 7}, "keep no state"),
        ({"sequence_id": "a"}, "keep no state"),
    ],
)
def test_parameters_refused(sent, says):
    (name,) = sent
    refused(parameters(**sent), f"parameters[{name}]", says)


def test_a_parameter_without_a_value_is_refused():
    message = request(inputs=matrix(ROWS))
    message.parameters["timeout"].SetInParent()
    refused(message, "parameters[timeout]", "'no number' is not a number")
    ended = parameters(sequence_id=0)
    assert decode(ended).outputs


def _with(message, change):
    change(message)
    return message


CASES = {
    "nothing": (request(), "inputs", r"0 were sent; due is `input`, FP32 \[rows, features\]"),
    "one dimension": (request(inputs=matrix(ROWS[0])), "inputs[0].shape", r"\[3\] was sent, two dimensions are due"),
    "another name": (request(inputs=[("x", "FP32", ROWS)]), "inputs[0].shape", r"\[2, 3\] was .*; an input named 'x'"),
    "the matrix twice": (request(inputs=matrix(ROWS) * 2), "inputs[0].shape", "All of them at once are named 'input'"),
    "columns of two lengths": (
        request(inputs=[("a", "FP32", ROWS[0]), ("b", "FP32", ROWS[0]), ("c", "FP32", ROWS[0, :2])]),
        "inputs[2].shape",
        r"2 rows were sent, and 3 in inputs\[0\]",
    ),
    "a blob too few": (
        _with(request(inputs=[("a", "FP32", ROWS[0])] * 3), lambda m: m.raw_input_contents.pop()),
        "raw_input_contents",
        "holds 2 blobs for 3 inputs",
    ),
    "a blob too many": (
        _with(request(inputs=matrix(ROWS)), lambda m: m.raw_input_contents.append(b"")), "raw_input_contents", "2 blobs"
    ),
    "raw and typed": (
        _with(request(inputs=matrix(ROWS)), lambda m: m.inputs[0].contents.fp32_contents.append(1)),
        "inputs[0].contents",
        "beside raw_input_contents",
    ),
    "raw and empty contents": (
        _with(request(inputs=matrix(ROWS)), lambda m: m.inputs[0].contents.SetInParent()),
        "inputs[0].contents",
        "beside",
    ),
    "shared memory": (
        _with(request(inputs=matrix(ROWS)), lambda m: m.inputs[0].parameters["shared_memory_region"].SetInParent()),
        "inputs[0].parameters",
        "shared memory is not supported",
    ),
    "an unknown output": (
        request(inputs=matrix(ROWS), outputs=["margin", "prediction"]),
        "outputs[1].name",
        "no output 'prediction'; it has label",
    ),
    "an output twice": (request(inputs=matrix(ROWS), outputs=["margin"] * 2), "outputs[1].name", "asked for twice"),
    "outputs without end": (request(inputs=matrix(ROWS), outputs=["margin"] * 1000), "outputs", "1000 were asked for"),
    "a classification": (
        _with(
            request(inputs=matrix(ROWS), outputs=["label"]),
            lambda m: m.outputs[0].parameters["classification"].SetInParent(),
        ),
        "outputs[0].parameters",
        "ask for `label`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name):
    refused(*CASES[name])


def test_a_matrix_where_strings_are_due():
    refused(request(inputs=matrix(ROWS)), "inputs[0].shape", "an input named 'input' is one feature", STRINGS)
    refused(request(), "inputs", "one for each feature, by name", STRINGS)


def test_what_is_no_message():
    with pytest.raises(InvalidInput, match="is no ModelInferRequest"):
        parse(pb.ModelInferRequest, b"\xff\xff\xff")


def test_errors_name_inputs():
    error = InvalidInput(*(FieldViolation(name, "is wrong") for name in ("columns[3]", "columns", "input[:, 2]")))
    assert [one.field for one in in_their_terms(error).violations] == ["inputs[3]", "inputs", "input[:, 2]"]


def reply(of, statuses, *, n_outputs=1, detail=""):
    """A reply whose attributions count up, where any row is complete."""
    n = len(statuses)
    explained = COMPLETE in statuses
    rng = np.random.default_rng(1)
    task = of.manifest.task
    return SimpleNamespace(
        model=of,
        decision_ids=tuple(uuid.UUID(int=i << 64 | i) for i in range(n)),
        prediction=Prediction(
            margin=rng.random((n, n_outputs), np.float32),
            probabilities=rng.random((n, 2), np.float32) if "classification" in task else None,
            labels=np.arange(n) if task.startswith(("binary", "multiclass")) else None,
            prediction=rng.random((n, n_outputs), np.float32) if task == "regression" else None,
            started_ns=0,
            finished_ns=1,
        ),
        explanations=Explanations(
            statuses=tuple(statuses),
            phi=np.arange(n * 3 * n_outputs, dtype=np.float64).reshape(n, 3, n_outputs) if explained else None,
            base_values=np.arange(n_outputs) - 0.5,
            residual=np.zeros(n),
            detail=detail,
            method=Method("path_dependent_treeshap", "scalar-f64", "portable"),
        ),
    )


def encode(answer, *outputs, request_id="7"):
    signature = InferenceSignature.of(answer.model)
    return pb.ModelInferResponse.FromString(encode_infer(answer, outputs or signature.default, request_id, signature))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 100])
def test_every_output_of_a_classifier(n):
    answer = reply(model(), [COMPLETE] * n)
    response = encode(answer)
    assert (response.model_name, response.model_version, response.id) == ("loan", "3", "7")
    assert status_of(response) == "complete"
    assert {*response.parameters} == {"explanation_status"}
    got = arrays(response)
    assert [*got] == ["label", "probabilities", "margin", "treeshap_output", "decision_id"]
    for name in ("label", "probabilities", "margin"):
        due = getattr(answer.prediction, {"label": "labels"}.get(name, name))
        np.testing.assert_array_equal(got[name], due)
        assert got[name].dtype == due.dtype
    assert got["treeshap_output"].shape == (n, 4)
    np.testing.assert_array_equal(got["treeshap_output"][:, :3], answer.explanations.phi[:, :, 0])
    assert (got["treeshap_output"][:, 3] == -0.5).all()
    assert [one.decode() for one in got["decision_id"]] == [str(one) for one in answer.decision_ids]
    for output in response.outputs:
        assert not output.HasField("contents")


def test_several_outputs_have_a_dimension_of_their_own():
    answer = reply(model("regression", n_outputs=2, classes=()), [COMPLETE] * 3, n_outputs=2)
    got = arrays(encode(answer))
    assert [*got] == ["prediction", "margin", "treeshap_output", "decision_id"]
    np.testing.assert_array_equal(got["prediction"], answer.prediction.prediction)
    assert got["treeshap_output"].shape == (3, 2, 4)
    for row in range(3):
        for output in range(2):
            phi = answer.explanations.phi[row, :, output]
            np.testing.assert_array_equal(got["treeshap_output"][row, output], [*phi, output - 0.5])


@pytest.mark.parametrize("status", [DEFERRED, FAILED])
def test_without_an_explanation_it_is_nan(status):
    response = encode(reply(model(), [status] * 2, detail="too late"), "treeshap_output", "explanation_status")
    assert status_of(response) == status.value
    assert response.parameters["explanation_detail"].string_param == "too late"
    got = arrays(response)
    assert got["treeshap_output"].shape == (2, 4)
    assert np.isnan(got["treeshap_output"]).all()
    assert got["explanation_status"].tolist() == [status.value.encode()] * 2


def test_rows_may_differ():
    response = encode(reply(model(), [COMPLETE, FAILED, COMPLETE], detail="1"), "explanation_status", "treeshap_output")
    assert status_of(response) == "mixed"
    got = arrays(response)
    assert [*got] == ["explanation_status", "treeshap_output"]
    assert got["explanation_status"].tolist() == [b"complete", b"failed", b"complete"]
    assert np.isnan(got["treeshap_output"]).all(axis=1).tolist() == [False, True, False]


def test_not_requested_is_no_complaint():
    response = encode(reply(model(), [ExplanationStatus.NOT_REQUESTED], detail="the request asked for none"), "margin")
    assert status_of(response) == "not requested"
    assert "explanation_detail" not in response.parameters


def test_a_model_that_was_replaced_by_another_kind():
    answer = reply(model("regression", classes=()), [COMPLETE])
    with pytest.raises(Unavailable, match="replaced while the request was under way"):
        encode(answer, "label")


def test_what_is_shared_is_not_mixed_up():
    """Heads of responses are kept; they are of one model, version, status and number of rows."""
    one, other = model(), model()
    other.manifest = SimpleNamespace(**{**vars(one.manifest), "version": "4"})
    signature = InferenceSignature.of(one)
    for of, statuses in ((one, [COMPLETE]), (other, [COMPLETE]), (one, [DEFERRED]), (one, [COMPLETE] * 2)) * 2:
        answer = reply(of, statuses)
        response = pb.ModelInferResponse.FromString(encode_infer(answer, ("margin",), "", signature))
        assert response.model_version == of.manifest.version
        assert status_of(response) == statuses[0].value
        assert arrays(response)["margin"].shape == (len(statuses), 1)
