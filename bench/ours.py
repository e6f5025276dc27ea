"""What is ours, and ONNX Runtime's prediction of the same file, which is the floor."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.rivals import Contestant, Unsuitable
from xai_service import treeshap
from xai_service.model.onnx_trees import parse_model, read_forest


class Ours(Contestant):
    """`TreeExplainer.shap_values`, called as users call it."""

    def __init__(self, folder: Path, background: Any) -> None:
        options: dict[str, Any] = {}
        if background is not None:
            if "background" not in inspect.signature(treeshap.TreeExplainer).parameters:
                raise Unsuitable("not built yet: TreeExplainer takes no background")
            options["background"] = background
        self._model = parse_model((folder / "model.onnx").read_bytes())
        self._background = options
        self._forest = read_forest(self._model)
        self._explainer = treeshap.TreeExplainer(self._model, **options)
        one, many = (self._explainer.method_for(rows) for rows in (1, 1_000))
        forced = os.environ.get("XAI_ISA")
        if forced and one.isa != forced:
            raise Unsuitable(f"not built yet: XAI_ISA={forced} gives {one.isa}")
        self.detail = f"{one.algorithm} {one.isa}, one row {one.variant}, 1,000 rows {many.variant}"

    def run(self, prepared: Any) -> Any:
        return self._explainer.shap_values(prepared)

    def phi(self, rows: Any) -> Any:
        values = self._explainer.shap_values(rows)
        return values[:, :, None] if values.ndim == 2 else values

    def base(self) -> Any:
        return np.atleast_1d(self._explainer.expected_value)

    def compile(self) -> None:
        if self._background:
            treeshap.TreeExplainer(self._model, **self._background)
        else:
            treeshap.compile_explainer(self._forest)


class _Pooled(Contestant):
    """A batch on the service's worker pool, not pinned."""

    threads = 1

    def __init__(self, folder: Path, background: Any) -> None:
        if background is not None:
            raise Unsuitable("measured path-dependent only")
        self._explainer = treeshap.compile_explainer(read_forest(parse_model((folder / "model.onnx").read_bytes())))
        self._pool = treeshap.WorkerPool(self.threads)
        self.detail = f"{self.threads} workers"

    def run(self, prepared: Any) -> Any:
        job = self._explainer.submit(self._pool, prepared)
        if not job.wait(600.0):
            raise TimeoutError("the worker pool did not answer within 600 s")
        return job.result()

    def phi(self, rows: Any) -> Any:
        return self.run(rows)


class OneWorker(_Pooled):
    """A pool of one."""

    threads = 1


class TwoWorkers(_Pooled):
    """A pool of two."""

    threads = 2


class Floor(Contestant):
    """``InferenceSession.run`` for the margin, one thread."""

    def __init__(self, folder: Path, background: Any) -> None:
        if background is not None:
            raise Unsuitable("predicts, whatever the background")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self.detail = f"onnxruntime {onnxruntime.__version__}"

    def run(self, prepared: Any) -> Any:
        return self._session.run(["margin"], {"input": prepared})

    def phi(self, rows: Any) -> Any:
        """The margins, float64 (n, 1, outputs): what attributions are to add up to."""
        return self.run(rows)[0].astype(np.float64)[:, None, :]
