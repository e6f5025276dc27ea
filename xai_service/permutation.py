"""SHAP values of any model, estimated: antithetic permutation sampling against a background.

Along a permutation of the features, the row's values replace the background's one after the other, and a feature gets
what its own step adds to the mean margin. Each permutation is walked forwards and backwards, which takes out the error
of all interactions of two features (Castro et al. 2009; Mitchell et al. 2022, §4.3). Steps telescope, so that base
value and attributions add up to the margin served, whatever is drawn. The spread over the independent pairs gives each
attribution's standard error.

What is drawn depends on the row's own bits and the model's digest, never on neighbours, threads or what was asked
before: a recorded row gets the same values again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np

from xai_service.cpus import usable_cpus
from xai_service.types import Method

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from xai_service._treeshap import WorkerPool
    from xai_service.types import Float32Array, Float64Array

    MarginOf = Callable[[Float32Array], Float32Array]

PAIRS = 16
_CHUNK_VALUES = 1 << 18  # of the rows asked about at once; between two chunks a job can be stopped


class Stopped(RuntimeError):
    """The job was cancelled."""


class PermutationExplainer:
    """Explains a model that can only be asked. Thread-safe.

    Args:
        margin: the model: float32 (n, features) to float32 (n, outputs); each row's bits its own.
        background: float32 (rows, features) to compare with.
        digest: of the model and its background, which seeds what is drawn.

    Attributes:
        base_values: float64 (outputs,), the mean margin of the background.
        n_outputs: margins of a row.
    """

    def __init__(self, margin: MarginOf, background: Float32Array, digest: bytes) -> None:
        self._margin = margin
        self._background = background
        self._digest = digest
        self.base_values: Float64Array = margin(background).astype(np.float64).mean(axis=0)
        self.n_outputs = len(self.base_values)

    def explain(self, rows: Float32Array) -> Float64Array:
        """Returns the attributions, float64 (n, features, outputs)."""
        return self.estimate(rows, threading.Event())[0]

    def estimate(self, rows: Float32Array, stop: threading.Event) -> tuple[Float64Array, Float64Array]:
        """Returns attributions and their standard errors, float64 (n, features, outputs) both.

        Args:
            rows: float32 (n, features).
            stop: ends the work when set.

        Raises:
            Stopped: it was.
        """
        found = [self._of_row(row, stop) for row in rows]
        return np.stack([phi for phi, _ in found]), np.stack([error for _, error in found])

    def submit(self, _pool: WorkerPool, rows: Float32Array, *, deferred: bool = False) -> PermutationJob:
        """Begins the work in a thread of its own, whether ``deferred`` or not, and returns at once."""
        del deferred  # those come one by one, and so leave threads for the others
        return PermutationJob(self, rows)

    def _of_row(self, row: Float32Array, stop: threading.Event) -> tuple[Float64Array, Float64Array]:
        seed = hashlib.sha256(self._digest + row.tobytes()).digest()
        bits = np.random.PCG64(int.from_bytes(seed[:16], "little"))  # whose raw stream NumPy never changes
        known = self._margin(row[None])[0].astype(np.float64)
        pairs = np.empty((PAIRS, len(row), self.n_outputs))
        for pair in pairs:
            order = np.argsort(bits.random_raw(len(row)), kind="stable")
            pair[:] = (self._along(order, row, known, stop) + self._along(order[::-1], row, known, stop)) / 2
        error = np.sqrt(pairs.var(axis=0, ddof=1) / PAIRS)
        return pairs.mean(axis=0), error

    def _along(
        self, order: np.ndarray[tuple[int], np.dtype[np.int64]], row: Float32Array, known: Float64Array,
        stop: threading.Event,
    ) -> Float64Array:  # fmt: skip
        """Returns what each feature's step adds, float64 (features, outputs)."""
        rows, features = self._background.shape
        values = np.empty((features + 1, self.n_outputs))
        values[0], values[-1] = self.base_values, known
        at_once = max(1, _CHUNK_VALUES // (rows * features))
        for start in range(1, features, at_once):
            if stop.is_set():
                raise Stopped("the job was cancelled")
            steps = np.arange(start, min(start + at_once, features))
            is_known = np.zeros((len(steps), 1, features), np.bool_)
            for place, step in enumerate(steps):
                is_known[place, 0, order[:step]] = True
            mixed = np.where(is_known, row, self._background).reshape(-1, features)
            margins = self._margin(mixed).astype(np.float64).reshape(len(steps), rows, -1)
            values[steps] = margins.mean(axis=1)
        phi = np.empty((features, self.n_outputs))
        phi[order] = np.diff(values, axis=0)
        return phi


def evaluations(n_features: int, background_rows: int) -> int:
    """Returns how many rows the model is asked about to explain one."""
    return 1 + 2 * PAIRS * max(0, n_features - 1) * background_rows


def method(background_rows: int) -> Method:
    """Returns how attributions against so many rows are computed."""
    return Method("permutation_sampling", f"antithetic-{PAIRS}x{background_rows}-f64", "onnxruntime")


_executors: dict[int, ThreadPoolExecutor] = {}


def _executor() -> ThreadPoolExecutor:
    """Returns this process's threads; a forked child, in which its parent's do not run, makes its own."""
    pid = os.getpid()
    return _executors.get(pid) or _executors.setdefault(
        pid, ThreadPoolExecutor(max_workers=usable_cpus(), thread_name_prefix="xai-sampling")
    )


class PermutationJob:
    """One batch's attributions under way; as `_treeshap.ExplainJob`.

    Attributes:
        started_ns, finished_ns: `time.monotonic_ns` of the first and last work on it; 0 before.
    """

    def __init__(self, explainer: PermutationExplainer, rows: Float32Array) -> None:
        self._stop = threading.Event()
        self.started_ns = self.finished_ns = 0
        self._future: Future[tuple[Float64Array, Float64Array]] = _executor().submit(self._run, explainer, rows)

    def _run(self, explainer: PermutationExplainer, rows: Float32Array) -> tuple[Float64Array, Float64Array]:
        self.started_ns = time.monotonic_ns()
        try:
            return explainer.estimate(rows, self._stop)
        finally:
            self.finished_ns = time.monotonic_ns()

    def wait(self, timeout_s: float) -> bool:
        """Waits so long at most; returns whether it is over."""
        return bool(wait((self._future,), timeout_s).done)

    def cancel(self) -> None:
        """Stops it at the next chunk, if it is not over."""
        self._stop.set()

    def result(self) -> Float64Array:
        """Returns float64 (n, features, outputs). Raises RuntimeError where there is none."""
        return self._outcome()[0]

    @property
    def standard_error(self) -> Float64Array:
        """float64 (n, features, outputs), of each attribution."""
        return self._outcome()[1]

    def _outcome(self) -> tuple[Float64Array, Float64Array]:
        try:
            return self._future.result()
        except (RuntimeError, MemoryError):
            raise
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise RuntimeError(f"the model cannot be asked: {error}") from error
