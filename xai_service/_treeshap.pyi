# Types of the native kernel; xai_service.treeshap documents what it does.

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xai_service.types import Float32Array, Float64Array

def process_isa() -> str: ...
def supported_isas() -> list[str]: ...
def check_additivity(
    phi: Float64Array, base_values: Float64Array, margin: Float32Array, tolerance: float
) -> tuple[Float64Array, NDArray[np.bool_], bool]: ...

class InvalidForest(ValueError): ...
class MissingCovers(ValueError): ...

class Forest:
    n_features: int
    n_players: int
    n_outputs: int
    n_trees: int
    n_leaves: int
    n_nodes: int
    max_depth: int
    has_covers: bool
    def __init__(
        self,
        *,
        n_features: int,
        n_outputs: int,
        tree_begin: NDArray[Any],
        kind: NDArray[Any],
        feature: NDArray[Any],
        threshold: Float64Array,
        nan_left: NDArray[Any],
        left: NDArray[Any],
        right: NDArray[Any],
        cover: Float64Array,
        weight_begin: NDArray[Any],
        weight_output: NDArray[Any],
        weight: Float64Array,
        base: Float64Array,
        set_begin: NDArray[Any] = ...,
        set_value: Float32Array = ...,
        player: NDArray[Any] = ...,
    ) -> None: ...
    def predict(self, rows: Float32Array) -> Float64Array: ...

class WorkerPool:
    threads: int
    busy: bool
    def __init__(self, threads: int) -> None: ...

class ExplainJob:
    variant: str
    cancelled: bool
    started_ns: int
    finished_ns: int
    def wait(self, timeout_s: float) -> bool: ...
    def cancel(self) -> None: ...
    def result(self) -> Float64Array: ...

class PathDependentExplainer:
    n_features: int
    n_players: int
    n_outputs: int
    memory_bytes: int
    isa: str
    base_values: Float64Array
    def __init__(self, forest: Forest, *, isa: str = "", variant: str = "") -> None: ...
    def variant_for(self, rows: int) -> str: ...
    def explain(self, rows: Float32Array, pool: WorkerPool | None = None, squeeze: bool = False) -> Float64Array: ...
    def submit(self, pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> ExplainJob: ...

class InterventionalPlan:
    n_features: int
    n_players: int
    n_outputs: int
    n_trees_by_table: int
    memory_bytes: int
    isa: str
    base_values: Float64Array
    def __init__(
        self, forest: Forest, background: Float32Array, memory_cap_bytes: int = ..., *, isa: str = ""
    ) -> None: ...
    def explain(self, rows: Float32Array, pool: WorkerPool | None = None, squeeze: bool = False) -> Float64Array: ...
    def submit(self, pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> ExplainJob: ...

class InteractionsPlan:
    n_features: int
    n_players: int
    n_outputs: int
    memory_bytes: int
    base_values: Float64Array
    def __init__(self, forest: Forest) -> None: ...
    def explain(self, rows: Float32Array, pool: WorkerPool | None = None, squeeze: bool = False) -> Float64Array: ...
    def submit(self, pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> ExplainJob: ...
