import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT64: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]

class ExplanationStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_STATUS_UNSPECIFIED: _ClassVar[ExplanationStatus]
    EXPLANATION_STATUS_COMPLETE: _ClassVar[ExplanationStatus]
    EXPLANATION_STATUS_DEFERRED: _ClassVar[ExplanationStatus]
    EXPLANATION_STATUS_FAILED: _ClassVar[ExplanationStatus]
    EXPLANATION_STATUS_NOT_REQUESTED: _ClassVar[ExplanationStatus]

class ExplanationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_MODE_UNSPECIFIED: _ClassVar[ExplanationMode]
    EXPLANATION_MODE_NONE: _ClassVar[ExplanationMode]
    EXPLANATION_MODE_COMPLETE_OR_DEFERRED: _ClassVar[ExplanationMode]
    EXPLANATION_MODE_REQUIRED: _ClassVar[ExplanationMode]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT64: DataType
DATA_TYPE_INT64: DataType
EXPLANATION_STATUS_UNSPECIFIED: ExplanationStatus
EXPLANATION_STATUS_COMPLETE: ExplanationStatus
EXPLANATION_STATUS_DEFERRED: ExplanationStatus
EXPLANATION_STATUS_FAILED: ExplanationStatus
EXPLANATION_STATUS_NOT_REQUESTED: ExplanationStatus
EXPLANATION_MODE_UNSPECIFIED: ExplanationMode
EXPLANATION_MODE_NONE: ExplanationMode
EXPLANATION_MODE_COMPLETE_OR_DEFERRED: ExplanationMode
EXPLANATION_MODE_REQUIRED: ExplanationMode

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "numbers", "strings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: Tensor
    strings: Strings
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Union[Tensor, _Mapping]] = ..., strings: _Optional[_Union[Strings, _Mapping]] = ...) -> None: ...

class Strings(_message.Message):
    __slots__ = ("values", "missing")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[int]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "input", "feature_names", "latency_budget_ms", "columns", "explanation_mode", "priority")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_MODE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    input: Tensor
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    latency_budget_ms: float
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    explanation_mode: ExplanationMode
    priority: int
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., input: _Optional[_Union[Tensor, _Mapping]] = ..., feature_names: _Optional[_Iterable[str]] = ..., latency_budget_ms: _Optional[float] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., explanation_mode: _Optional[_Union[ExplanationMode, str]] = ..., priority: _Optional[int] = ...) -> None: ...

class PredictStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: PredictRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[PredictRequest, _Mapping]] = ...) -> None: ...

class PredictStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: PredictResponse
    error: CallError
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[PredictResponse, _Mapping]] = ..., error: _Optional[_Union[CallError, _Mapping]] = ...) -> None: ...

class CallError(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "model_sha256", "decision_ids", "margin", "probabilities", "labels", "prediction", "classes", "feature_names", "explanations", "timings")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    DECISION_IDS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    model_sha256: str
    decision_ids: _containers.RepeatedScalarFieldContainer[str]
    margin: Tensor
    probabilities: Tensor
    labels: Tensor
    prediction: Tensor
    classes: _containers.RepeatedScalarFieldContainer[str]
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    explanations: Explanations
    timings: Timings
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., decision_ids: _Optional[_Iterable[str]] = ..., margin: _Optional[_Union[Tensor, _Mapping]] = ..., probabilities: _Optional[_Union[Tensor, _Mapping]] = ..., labels: _Optional[_Union[Tensor, _Mapping]] = ..., prediction: _Optional[_Union[Tensor, _Mapping]] = ..., classes: _Optional[_Iterable[str]] = ..., feature_names: _Optional[_Iterable[str]] = ..., explanations: _Optional[_Union[Explanations, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Explanations(_message.Message):
    __slots__ = ("statuses", "attributions", "base_values", "additivity_residual", "detail", "method", "standard_error")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_VALUES_FIELD_NUMBER: _ClassVar[int]
    ADDITIVITY_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[ExplanationStatus]
    attributions: Tensor
    base_values: Tensor
    additivity_residual: Tensor
    detail: str
    method: Method
    standard_error: Tensor
    def __init__(self, statuses: _Optional[_Iterable[_Union[ExplanationStatus, str]]] = ..., attributions: _Optional[_Union[Tensor, _Mapping]] = ..., base_values: _Optional[_Union[Tensor, _Mapping]] = ..., additivity_residual: _Optional[_Union[Tensor, _Mapping]] = ..., detail: _Optional[str] = ..., method: _Optional[_Union[Method, _Mapping]] = ..., standard_error: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("algorithm", "variant", "isa")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    ISA_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    variant: str
    isa: str
    def __init__(self, algorithm: _Optional[str] = ..., variant: _Optional[str] = ..., isa: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("predict_us", "explain_us", "overlap_us", "record_us", "total_us", "budget_ms")
    PREDICT_US_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_US_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_US_FIELD_NUMBER: _ClassVar[int]
    RECORD_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    predict_us: float
    explain_us: float
    overlap_us: float
    record_us: float
    total_us: float
    budget_ms: float
    def __init__(self, predict_us: _Optional[float] = ..., explain_us: _Optional[float] = ..., overlap_us: _Optional[float] = ..., record_us: _Optional[float] = ..., total_us: _Optional[float] = ..., budget_ms: _Optional[float] = ...) -> None: ...

class GetDecisionRequest(_message.Message):
    __slots__ = ("decision_id",)
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    def __init__(self, decision_id: _Optional[str] = ...) -> None: ...

class GetDecisionResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class GetExplanationRequest(_message.Message):
    __slots__ = ("decision_id",)
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    def __init__(self, decision_id: _Optional[str] = ...) -> None: ...

class GetExplanationResponse(_message.Message):
    __slots__ = ("decision_id", "explanation")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    explanation: Explanation
    def __init__(self, decision_id: _Optional[str] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("decision_id", "decided_at", "model_name", "model_version", "model_sha256", "feature_names", "input", "margin", "probabilities", "label", "prediction", "classes", "threshold", "favourable_class", "explanation", "timings", "runtime", "input_strings")
    class InputStringsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FAVOURABLE_CLASS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    INPUT_STRINGS_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    decided_at: _timestamp_pb2.Timestamp
    model_name: str
    model_version: str
    model_sha256: str
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    input: Tensor
    margin: Tensor
    probabilities: Tensor
    label: int
    prediction: Tensor
    classes: _containers.RepeatedScalarFieldContainer[str]
    threshold: float
    favourable_class: str
    explanation: Explanation
    timings: Timings
    runtime: _containers.RepeatedScalarFieldContainer[str]
    input_strings: _containers.ScalarMap[int, str]
    def __init__(self, decision_id: _Optional[str] = ..., decided_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., feature_names: _Optional[_Iterable[str]] = ..., input: _Optional[_Union[Tensor, _Mapping]] = ..., margin: _Optional[_Union[Tensor, _Mapping]] = ..., probabilities: _Optional[_Union[Tensor, _Mapping]] = ..., label: _Optional[int] = ..., prediction: _Optional[_Union[Tensor, _Mapping]] = ..., classes: _Optional[_Iterable[str]] = ..., threshold: _Optional[float] = ..., favourable_class: _Optional[str] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., runtime: _Optional[_Iterable[str]] = ..., input_strings: _Optional[_Mapping[int, str]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("status", "attributions", "base_values", "additivity_residual", "detail", "method", "explained_at", "standard_error")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_VALUES_FIELD_NUMBER: _ClassVar[int]
    ADDITIVITY_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_AT_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    status: ExplanationStatus
    attributions: Tensor
    base_values: Tensor
    additivity_residual: float
    detail: str
    method: Method
    explained_at: _timestamp_pb2.Timestamp
    standard_error: Tensor
    def __init__(self, status: _Optional[_Union[ExplanationStatus, str]] = ..., attributions: _Optional[_Union[Tensor, _Mapping]] = ..., base_values: _Optional[_Union[Tensor, _Mapping]] = ..., additivity_residual: _Optional[float] = ..., detail: _Optional[str] = ..., method: _Optional[_Union[Method, _Mapping]] = ..., explained_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., standard_error: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("model_name", "model_version", "ready", "reason", "model_sha256", "feature_names", "classes", "allows_missing", "task", "signed_by", "loaded_at", "feature_kinds")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ALLOWS_MISSING_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KINDS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    ready: bool
    reason: str
    model_sha256: str
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    allows_missing: _containers.RepeatedScalarFieldContainer[bool]
    task: str
    signed_by: str
    loaded_at: _timestamp_pb2.Timestamp
    feature_kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., ready: bool = ..., reason: _Optional[str] = ..., model_sha256: _Optional[str] = ..., feature_names: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ..., allows_missing: _Optional[_Iterable[bool]] = ..., task: _Optional[str] = ..., signed_by: _Optional[str] = ..., loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., feature_kinds: _Optional[_Iterable[str]] = ...) -> None: ...
