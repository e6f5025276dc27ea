# Types of the native codec of the hot path.

from typing import Any

from numpy.typing import NDArray

from xai_service.types import Float32Array

def read_predict(message: bytes) -> tuple[str, str, Float32Array, float | None, int, int] | None: ...

class ReplyParts:
    def __init__(self, head: bytes, names: bytes, base_values: bytes) -> None: ...
    def write(
        self,
        begin: int,
        end: int,
        ids: bytes,
        margin: NDArray[Any] | None,
        probabilities: NDArray[Any] | None,
        labels: NDArray[Any] | None,
        prediction: NDArray[Any] | None,
        statuses: bytes,
        attributions: NDArray[Any] | None,
        residual: NDArray[Any] | None,
        detail: bytes,
        method: bytes,
        predict_us: float,
        explain_us: float,
        overlap_us: float,
        record_us: float,
        total_us: float,
        budget_ms: float,
    ) -> bytes: ...
