"""What Triton's gRPC client sees: ``python triton_calls.py CHECK ADDRESS WANTED.npz``, run in the clients' environment.

``WANTED.npz`` holds rows of the model ``loan`` and what the library that trained it says of them: ``rows`` float32,
``probability``, and ``contributions``, the base value last.
"""

from __future__ import annotations

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ALL = ["label", "probabilities", "margin", "treeshap_output", "decision_id"]


def matrix(rows, datatype="FP32"):
    tensor = triton.InferInput("input", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows)
    return [tensor]


def asked(*names):
    return [triton.InferRequestedOutput(name) for name in names]


def names(result):
    return [output.name for output in result.get_response().outputs]


def status(result):
    return result.get_response().parameters["explanation_status"].string_param


def agrees(result, wanted, n=None):
    """The outputs are what the library says, and belong together."""
    n = n or len(wanted["rows"])
    margin, shap = result.as_numpy("margin"), result.as_numpy("treeshap_output")
    assert margin.dtype == shap.dtype == np.float32
    np.testing.assert_allclose(shap, wanted["contributions"][:n], rtol=0, atol=1e-5)
    np.testing.assert_allclose(shap.sum(axis=1), margin[:, 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.as_numpy("probabilities")[:, 1], wanted["probability"][:n], rtol=0, atol=1e-6)
    label = result.as_numpy("label")
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, wanted["probability"][:n] > 0.5)
    ids = result.as_numpy("decision_id").tolist()
    assert len({*ids}) == n
    assert all(len(one) == 36 for one in ids)


def error_of(call):
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("an error was due")


def refused(call, code, *texts):
    error = error_of(call)
    assert error.status() == f"StatusCode.{code}", error.status()
    for text in texts:
        assert text in error.message(), error.message()


def infers(client, wanted):
    rows = wanted["rows"]
    result = client.infer("loan", matrix(rows), request_id="a b c")
    assert names(result) == ALL
    assert status(result) == "complete"
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("a b c", "loan", "1")
    agrees(result, wanted)
    agrees(client.infer("loan", matrix(rows), model_version="1"), wanted)
    agrees(client.infer("loan", matrix(rows.astype(np.float64), "FP64")), wanted)

    some = client.infer("loan", matrix(rows), outputs=asked("decision_id", "margin"))
    assert names(some) == ["decision_id", "margin"]
    assert status(some) == "not requested"
    both = client.infer("loan", matrix(rows), outputs=asked("treeshap_output", "explanation_status"))
    assert names(both) == ["treeshap_output", "explanation_status"]
    assert both.as_numpy("explanation_status").tolist() == [b"complete"] * len(rows)

    late = client.infer("loan", matrix(rows), parameters={"latency_budget_ms": 0.001})
    assert status(late) == "deferred"
    assert np.isnan(late.as_numpy("treeshap_output")).all()
    assert np.isfinite(late.as_numpy("margin")).all()
    assert "budget" in late.get_response().parameters["explanation_detail"].string_param
    assert status(client.infer("loan", matrix(rows), timeout=1)) == "deferred"
    assert status(client.infer("loan", matrix(rows), timeout=1, parameters={"latency_budget_ms": 2000})) == "complete"
    assert status(client.infer("loan", matrix(rows), priority=3, timeout=2_000_000)) == "complete"
    required = {"explanation_mode": "required"}
    assert status(client.infer("loan", matrix(rows), outputs=asked("margin"), parameters=required)) == "complete"
    none = client.infer("loan", matrix(rows), parameters={"explanation_mode": "none"})
    assert status(none) == "not requested"
    assert np.isnan(none.as_numpy("treeshap_output")).all()

    got = queue.Queue()
    client.async_infer("loan", matrix(rows), lambda result, error: got.put((result, error)))
    result, error = got.get(timeout=30)
    assert error is None
    agrees(result, wanted)


def tells(client, wanted):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("loan")
    assert client.is_model_ready("loan", "1")
    assert not client.is_model_ready("loan", "2")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("broken")
    server = client.get_server_metadata()
    assert server.name == "xai-service"
    assert "statistics" in server.extensions

    model = client.get_model_metadata("loan")
    features = wanted["rows"].shape[1]
    assert (model.name, list(model.versions)) == ("loan", ["1"])
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [("input", "FP32", [-1, features])]
    outputs = {one.name: (one.datatype, list(one.shape)) for one in model.outputs}
    assert outputs == {
        "label": ("INT64", [-1]),
        "probabilities": ("FP32", [-1, 2]),
        "margin": ("FP32", [-1, 1]),
        "treeshap_output": ("FP32", [-1, features + 1]),
        "decision_id": ("BYTES", [-1]),
        "explanation_status": ("BYTES", [-1]),
    }
    everything = client.infer("loan", matrix(wanted["rows"]), outputs=asked(*outputs))
    for one in everything.get_response().outputs:  # metadata and answers say the same
        assert (one.datatype, list(one.shape)[1:]) == (outputs[one.name][0], outputs[one.name][1][1:])

    config = client.get_model_config("loan", as_json=True)["config"]
    assert config["backend"] == "onnxruntime"
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": ["-1", str(features)]}]
    assert {one["name"] for one in config["output"]} == {*outputs}

    index = {one.name: one for one in client.get_model_repository_index().models}
    assert index["loan"].state == "READY"
    assert index["broken"].state == "UNAVAILABLE"
    assert index["broken"].reason

    def counts():
        (one,) = client.get_inference_statistics("loan", "1").model_stats
        return one

    before = counts()
    client.infer("loan", matrix(wanted["rows"]))
    refused(lambda: client.infer("loan", matrix(wanted["rows"][:, 1:])), "INVALID_ARGUMENT")
    after = counts()
    assert after.inference_count - before.inference_count == len(wanted["rows"])
    assert after.execution_count - before.execution_count == 1
    assert after.last_inference >= before.last_inference
    for part in ("success", "compute_input", "compute_infer", "compute_output", "fail"):
        old, new = getattr(before.inference_stats, part), getattr(after.inference_stats, part)
        assert new.count - old.count == 1, part
        assert new.ns > old.ns, part
    assert [one.name for one in client.get_inference_statistics().model_stats] == ["loan"]
    refused(lambda: client.get_inference_statistics("other"), "NOT_FOUND", "no model is named 'other'")


def refuses(client, wanted):
    rows = wanted["rows"]
    refused(lambda: client.infer("other", matrix(rows)), "NOT_FOUND", "no model is named 'other'")
    refused(lambda: client.infer("loan", matrix(rows), model_version="9"), "NOT_FOUND", "no version '9'")
    refused(lambda: client.infer("broken", matrix(rows)), "FAILED_PRECONDITION", "cannot be served")
    refused(lambda: client.infer("", matrix(rows)), "INVALID_ARGUMENT", "model_name")
    refused(lambda: client.infer("loan", matrix(rows[:, 1:])), "INVALID_ARGUMENT", "features were sent")
    wrong = rows.copy()
    wrong[0, 0] = np.inf
    refused(lambda: client.infer("loan", matrix(wrong)), "INVALID_ARGUMENT", "input[:, 0]", "infinite")
    refused(
        lambda: client.infer("loan", matrix(rows), outputs=asked("prediction")),
        "INVALID_ARGUMENT",
        "no output 'prediction'; it has label, probabilities",
    )
    refused(lambda: client.infer("loan", matrix(rows), parameters={"explanation_mode": "all"}), "INVALID_ARGUMENT")
    refused(lambda: client.infer("loan", matrix(rows), sequence_id=7), "INVALID_ARGUMENT", "sequence_id")
    top = [triton.InferRequestedOutput("probabilities", class_count=1)]
    refused(lambda: client.infer("loan", matrix(rows), outputs=top), "INVALID_ARGUMENT", "classification")
    shared = triton.InferInput("input", list(rows.shape), "FP32")
    shared.set_shared_memory("region", rows.nbytes)
    refused(lambda: client.infer("loan", [shared]), "INVALID_ARGUMENT", "shared memory")
    refused(lambda: client.load_model("loan"), "UNIMPLEMENTED")
    late = {"explanation_mode": "required", "latency_budget_ms": 0.001}
    refused(lambda: client.infer("loan", matrix(rows), parameters=late), "DEADLINE_EXCEEDED", "no explanation in time")
    refused(lambda: client.get_model_metadata("other"), "NOT_FOUND", "no model is named 'other'")
    agrees(client.infer("loan", matrix(rows)), wanted)


def streams(client, wanted):
    got = queue.Queue()
    client.start_stream(lambda result, error: got.put((result, error)))
    n = len(wanted["rows"])
    sizes = [i % n + 1 for i in range(200)]
    for i, size in enumerate(sizes):
        client.async_stream_infer("loan" if i % 50 != 7 else "other", matrix(wanted["rows"][:size]), request_id=str(i))
    seen, errors = set(), []
    for _ in sizes:
        result, error = got.get(timeout=60)
        if error is not None:
            errors.append(error.message())
            continue
        i = int(result.get_response().id)
        seen.add(i)
        agrees(result, wanted, sizes[i])
    assert seen == {i for i in range(200) if i % 50 != 7}
    assert len(errors) == 4
    assert all(one.startswith("NOT_FOUND: no model is named 'other'") for one in errors)
    client.stop_stream()


def awaits(address, wanted):
    rows = wanted["rows"]

    async def requests():
        for i in range(20):
            yield {"model_name": "other" if i == 7 else "loan", "inputs": matrix(rows), "request_id": str(i)}

    async def ask():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("loan")
            assert (await client.get_model_metadata("loan")).name == "loan"
            assert len((await client.get_model_repository_index()).models) == 2
            for result in await asyncio.gather(*(client.infer("loan", matrix(rows)) for _ in range(20))):
                agrees(result, wanted)
            (error,) = await asyncio.gather(client.infer("other", matrix(rows)), return_exceptions=True)
            assert error.status() == "StatusCode.NOT_FOUND"
            seen, errors = set(), []
            async for result, error in client.stream_infer(requests()):
                if error is not None:
                    errors.append(error.message())
                else:
                    seen.add(result.get_response().id)
                    agrees(result, wanted)
            assert seen == {str(i) for i in range(20) if i != 7}
            assert len(errors) == 1

    asyncio.run(ask())


def main():
    check, address, path = sys.argv[1:]
    wanted = dict(np.load(path))
    if check == "awaits":
        awaits(address, wanted)
        return
    with triton.InferenceServerClient(address) as client:
        globals()[check](client, wanted)


if __name__ == "__main__":
    main()
