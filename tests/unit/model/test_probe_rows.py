"""Rows that models are tried on."""

from __future__ import annotations

import numpy as np
import onnx

from xai_service.model.probe_rows import rows_near_thresholds


def test_rows_stand_on_the_models_thresholds(regression: onnx.ModelProto) -> None:
    rows = rows_near_thresholds(regression, 2, 1)
    assert rows.shape == (64, 2)
    assert rows.dtype == np.float32
    assert {0.5, -1.5} <= set(rows.ravel().tolist())
    assert len(rows_near_thresholds(regression, 2, 1 << 20)) == 2
    assert len(rows_near_thresholds(regression, 2, 1 << 30)) == 1
