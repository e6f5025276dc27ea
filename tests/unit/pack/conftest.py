"""Small models on seeded synthetic data with missing values, trained once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
import xgboost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array


@pytest.fixture(scope="session", name="X")
def caller_rows() -> Float32Array:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(400, 5)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[:, 4] = rng.integers(0, 4, size=400)  # whole numbers stand on thresholds by themselves, and are never missing
    return rows


@pytest.fixture(scope="session")
def signal(X: Float32Array) -> Float64Array:
    """What the targets are made of."""
    filled = np.nan_to_num(X.astype(np.float64))
    return np.asarray(filled[:, 0] + filled[:, 1] * filled[:, 2] + 0.3 * filled[:, 4])


@pytest.fixture(scope="session")
def train(X: Float32Array, signal: Float64Array) -> Callable[..., xgboost.Booster]:
    """Returns a function that trains with these parameters, on a target that suits the objective."""

    def run(rounds: int = 12, *, target: Any = None, **parameters: Any) -> xgboost.Booster:
        objective = parameters.setdefault("objective", "binary:logistic")
        if target is None:
            if objective.startswith("binary"):
                target = signal > 0.5
            elif objective in ("count:poisson", "reg:gamma", "reg:tweedie", "reg:squaredlogerror"):
                target = np.exp(signal / 3)
            else:
                target = signal
        return xgboost.train(
            {"max_depth": 4, "seed": 1, "nthread": 1, **parameters}, xgboost.DMatrix(X, target), rounds
        )

    return run


@pytest.fixture(scope="session")
def booster(train: Callable[..., xgboost.Booster]) -> xgboost.Booster:
    return train()


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[Path, Float32Array], dict[str, Any]]:
    """Returns a function from a bundle's directory and rows to the model's outputs by name."""

    def run(bundle: Path, rows: Float32Array) -> dict[str, Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {"input": rows}), strict=True))

    return run
