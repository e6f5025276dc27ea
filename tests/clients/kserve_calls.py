"""What KServe's gRPC client sees; called as ``triton_calls.py`` is.

``import kserve`` would import its server, and what that needs. The client's modules are imported by themselves.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types

import grpc
import numpy as np

package = types.ModuleType("kserve")
package.__path__ = list(importlib.util.find_spec("kserve").submodule_search_locations)
sys.modules["kserve"] = package

from kserve.inference_client import InferenceGRPCClient  # noqa: E402 (now that its package is there)
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput  # noqa: E402


def request(rows, datatype="FP32", *, binary, model="loan", **options):
    tensor = InferInput("input", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model, [tensor], **options)


def agrees(response, wanted):
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    assert [*outputs] == ["label", "probabilities", "margin", "treeshap_output", "decision_id"]
    shap = outputs["treeshap_output"].reshape(len(wanted["rows"]), -1)
    np.testing.assert_allclose(shap, wanted["contributions"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(shap.sum(axis=1), outputs["margin"].reshape(-1), rtol=0, atol=1e-4)
    chances = outputs["probabilities"].reshape(-1, 2)
    np.testing.assert_allclose(chances[:, 1], wanted["probability"], rtol=0, atol=1e-6)
    assert len({*outputs["decision_id"].reshape(-1).tolist()}) == len(wanted["rows"])
    assert response.parameters["explanation_status"].string_param == "complete"


async def infers(client, wanted):
    rows = wanted["rows"]
    for binary in (True, False):  # raw contents, and typed ones
        response = await client.infer(request(rows, binary=binary, request_id="seven"))
        assert (response.id, response.model_name) == ("seven", "loan")
        agrees(response, wanted)
        agrees(await client.infer(request(rows.astype(np.float64), "FP64", binary=binary)), wanted)
    some = request(rows, binary=True, request_outputs=[RequestedOutput("margin")])
    response = await client.infer(some)
    assert [output.name for output in response.outputs] == ["margin"]
    assert response.parameters["explanation_status"].string_param == "not requested"
    late = await client.infer(request(rows, binary=True, parameters={"latency_budget_ms": "0.001"}))
    assert late.parameters["explanation_status"].string_param == "deferred"


async def tells(client, wanted):  # noqa: ARG001
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("loan")
    assert not await client.is_model_ready("other")


async def refuses(client, wanted):
    for change, code in (
        ({"model": "other"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "broken"}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"rows": wanted["rows"][:, 1:]}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        call = client.infer(request(**({"rows": wanted["rows"], "binary": True} | change)))
        (error,) = await asyncio.gather(call, return_exceptions=True)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is code


async def main():
    check, address, path = sys.argv[1:]
    async with InferenceGRPCClient(address) as client:
        await globals()[check](client, dict(np.load(path)))


if __name__ == "__main__":
    asyncio.run(main())
