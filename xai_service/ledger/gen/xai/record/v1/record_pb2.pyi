from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecisionRecord(_message.Message):
    __slots__ = ("decision_id", "decided_at_ns", "model_name", "model_version", "model_sha256", "feature_names", "input_f32", "margin_f32", "probabilities_f32", "label", "prediction_f32", "classes", "threshold", "favourable_class", "explanation", "runtime", "timings", "input_strings")
    class InputStringsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUT_F32_FIELD_NUMBER: _ClassVar[int]
    MARGIN_F32_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_F32_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_F32_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FAVOURABLE_CLASS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    INPUT_STRINGS_FIELD_NUMBER: _ClassVar[int]
    decision_id: bytes
    decided_at_ns: int
    model_name: str
    model_version: str
    model_sha256: bytes
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    input_f32: bytes
    margin_f32: bytes
    probabilities_f32: bytes
    label: int
    prediction_f32: bytes
    classes: _containers.RepeatedScalarFieldContainer[str]
    threshold: float
    favourable_class: str
    explanation: ExplanationRecord
    runtime: RuntimeRecord
    timings: TimingsRecord
    input_strings: _containers.ScalarMap[int, str]
    def __init__(self, decision_id: _Optional[bytes] = ..., decided_at_ns: _Optional[int] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[bytes] = ..., feature_names: _Optional[_Iterable[str]] = ..., input_f32: _Optional[bytes] = ..., margin_f32: _Optional[bytes] = ..., probabilities_f32: _Optional[bytes] = ..., label: _Optional[int] = ..., prediction_f32: _Optional[bytes] = ..., classes: _Optional[_Iterable[str]] = ..., threshold: _Optional[float] = ..., favourable_class: _Optional[str] = ..., explanation: _Optional[_Union[ExplanationRecord, _Mapping]] = ..., runtime: _Optional[_Union[RuntimeRecord, _Mapping]] = ..., timings: _Optional[_Union[TimingsRecord, _Mapping]] = ..., input_strings: _Optional[_Mapping[int, str]] = ...) -> None: ...

class ExplanationRecord(_message.Message):
    __slots__ = ("decision_id", "status", "attributions_f64", "base_values_f64", "additivity_residual", "detail", "algorithm", "variant", "isa", "explained_at_ns", "standard_error_f64")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[ExplanationRecord.Status]
        STATUS_COMPLETE: _ClassVar[ExplanationRecord.Status]
        STATUS_DEFERRED: _ClassVar[ExplanationRecord.Status]
        STATUS_FAILED: _ClassVar[ExplanationRecord.Status]
        STATUS_NOT_REQUESTED: _ClassVar[ExplanationRecord.Status]
    STATUS_UNSPECIFIED: ExplanationRecord.Status
    STATUS_COMPLETE: ExplanationRecord.Status
    STATUS_DEFERRED: ExplanationRecord.Status
    STATUS_FAILED: ExplanationRecord.Status
    STATUS_NOT_REQUESTED: ExplanationRecord.Status
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_F64_FIELD_NUMBER: _ClassVar[int]
    BASE_VALUES_F64_FIELD_NUMBER: _ClassVar[int]
    ADDITIVITY_RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    ISA_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_F64_FIELD_NUMBER: _ClassVar[int]
    decision_id: bytes
    status: ExplanationRecord.Status
    attributions_f64: bytes
    base_values_f64: bytes
    additivity_residual: float
    detail: str
    algorithm: str
    variant: str
    isa: str
    explained_at_ns: int
    standard_error_f64: bytes
    def __init__(self, decision_id: _Optional[bytes] = ..., status: _Optional[_Union[ExplanationRecord.Status, str]] = ..., attributions_f64: _Optional[bytes] = ..., base_values_f64: _Optional[bytes] = ..., additivity_residual: _Optional[float] = ..., detail: _Optional[str] = ..., algorithm: _Optional[str] = ..., variant: _Optional[str] = ..., isa: _Optional[str] = ..., explained_at_ns: _Optional[int] = ..., standard_error_f64: _Optional[bytes] = ...) -> None: ...

class RuntimeRecord(_message.Message):
    __slots__ = ("service_version", "onnxruntime_version", "intra_op_threads")
    SERVICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    INTRA_OP_THREADS_FIELD_NUMBER: _ClassVar[int]
    service_version: str
    onnxruntime_version: str
    intra_op_threads: int
    def __init__(self, service_version: _Optional[str] = ..., onnxruntime_version: _Optional[str] = ..., intra_op_threads: _Optional[int] = ...) -> None: ...

class TimingsRecord(_message.Message):
    __slots__ = ("predict_us", "explain_us", "overlap_us", "budget_ms")
    PREDICT_US_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_US_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_US_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    predict_us: float
    explain_us: float
    overlap_us: float
    budget_ms: float
    def __init__(self, predict_us: _Optional[float] = ..., explain_us: _Optional[float] = ..., overlap_us: _Optional[float] = ..., budget_ms: _Optional[float] = ...) -> None: ...
