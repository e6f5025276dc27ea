"""What a model looks like through the Open Inference Protocol: its inputs and outputs, and the messages that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xai_service.model.session import OUTPUTS
from xai_service.wire.gen.inference import grpc_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xai_service.model.repository import ModelEntry
    from xai_service.model.snapshot import ModelSnapshot

MATRIX = "input"
"""The input that holds all features of a model that takes numbers only."""
TREESHAP = "treeshap_output"
DECISION_ID = "decision_id"
EXPLANATION_STATUS = "explanation_status"

_PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"
_MODEL_FILE = "model.onnx"
_ROWS = -1
_CONFIG_TYPES = {"FP32": pb.TYPE_FP32, "INT64": pb.TYPE_INT64, "BYTES": pb.TYPE_STRING}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: its data type, and its shape beside the rows."""

    datatype: str
    row_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """With -1 for the rows."""
        return (_ROWS, *self.row_shape)


@dataclass(frozen=True, slots=True, eq=False)
class InferenceSignature:
    """A model's inputs and outputs, by name.

    Attributes:
        inputs: `MATRIX`, or one for each feature where some of them are strings.
        outputs: all that can be asked for.
        default: those that a request which names none is answered with.
        takes_strings: whether some features are strings, so that each is an input of its own.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    default: tuple[str, ...]
    takes_strings: bool

    @classmethod
    def of(cls, model: ModelSnapshot) -> InferenceSignature:
        """Returns a model's."""
        names, strings, n_outputs = model.feature_names, model.raw.codes, model.n_outputs
        inputs = {MATRIX: TensorSpec("FP32", (len(names),))}
        if strings:
            inputs = {name: TensorSpec("BYTES" if i in strings else "FP32", (1,)) for i, name in enumerate(names)}
        own = {
            "label": TensorSpec("INT64", ()),
            "probabilities": TensorSpec("FP32", (len(model.manifest.classes),)),
            "prediction": TensorSpec("FP32", (n_outputs,)),
        }
        explained = (len(names) + 1,) if n_outputs == 1 else (n_outputs, len(names) + 1)
        outputs = {
            **{name: own[name] for name in OUTPUTS[model.manifest.task]},
            "margin": TensorSpec("FP32", (n_outputs,)),
            TREESHAP: TensorSpec("FP32", explained),
            DECISION_ID: TensorSpec("BYTES", ()),
        }
        return cls(inputs, {**outputs, EXPLANATION_STATUS: TensorSpec("BYTES", ())}, tuple(outputs), bool(strings))


def encode_metadata(
    model: ModelSnapshot, signature: InferenceSignature, entries: Iterable[ModelEntry]
) -> pb.ModelMetadataResponse:
    """Returns a model's metadata; ``entries`` are the repository's."""

    def tensors(specs: Mapping[str, TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
        return [
            pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=one.datatype, shape=one.shape)
            for name, one in specs.items()
        ]

    name = model.manifest.name
    return pb.ModelMetadataResponse(
        name=name,
        versions=[entry.version for entry in entries if entry.name == name and entry.snapshot is not None],
        platform=_PLATFORM,
        inputs=tensors(signature.inputs),
        outputs=tensors(signature.outputs),
    )


def encode_config(model: ModelSnapshot, signature: InferenceSignature) -> pb.ModelConfigResponse:
    """Returns the same in Triton's terms."""
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=model.manifest.name,
            platform=_PLATFORM,
            backend=_BACKEND,
            default_model_filename=_MODEL_FILE,
            input=[
                pb.ModelInput(name=name, data_type=_CONFIG_TYPES[one.datatype], dims=one.shape)
                for name, one in signature.inputs.items()
            ],
            output=[
                pb.ModelOutput(name=name, data_type=_CONFIG_TYPES[one.datatype], dims=one.shape)
                for name, one in signature.outputs.items()
            ],
        )
    )


def encode_index(entries: Iterable[ModelEntry], *, ready: bool) -> pb.RepositoryIndexResponse:
    """Returns the versions of a repository, only those that can be asked where ``ready``."""
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.name,
                version=entry.version,
                state="UNAVAILABLE" if entry.snapshot is None else "READY",
                reason="" if entry.error is None else str(entry.error),
            )
            for entry in entries
            if entry.snapshot is not None or not ready
        ]
    )
