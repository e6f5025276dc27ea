"""Loads CatBoost's files, which are not to be trusted.

CatBoost ends the whole process, beyond any exception, on some damaged files, and when it is to write as JSON what it
read from ONNX. So another process, of limited memory and time, first does with a file all that packing will do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import catboost

from xai_service.errors import PackRefused
from xai_service.model.model_file import MAX_MODEL_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 300
_MEMORY_BYTES = 8 << 30  # of addresses; CatBoost alone takes 1 GB
_FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each takes addresses too
_TRIAL = """
import os, resource, sys, tempfile
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), int(sys.argv[3])))
import catboost
model = catboost.CatBoost().load_model(sys.argv[1], format=sys.argv[2])
row = [[0.0] * len(model.feature_names_)]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "model.json")
    model.save_model(path, format="json")
    copy = catboost.CatBoost().load_model(path, format="json")
try:
    model.predict(row, thread_count=1)
    copy.get_feature_importance(catboost.Pool(row), type="ShapValues", thread_count=1)
except catboost.CatBoostError:  # as of categories, which packing refuses
    pass
"""


def survives(path: Path) -> bool:
    """Whether CatBoost gets through packing a .cbm or .json file, in 8 GB and 5 minutes."""
    command = [sys.executable, "-P", "-c", _TRIAL, str(path.absolute()), _format(path), str(_MEMORY_BYTES)]
    try:
        # The arguments are a program of ours and a path, and no shell sees them.
        subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, timeout=_SECONDS, env={**os.environ, **_FEW_THREADS}
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return False
    return True


def load(path: Path) -> catboost.CatBoost:
    """Returns the model in a .cbm or .json file.

    Raises:
        PackRefused: CatBoost cannot read the file, or not within 8 GB and 5 minutes; says what to do.
    """
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise PackRefused(f"{path}: has {size} bytes; at most {MAX_MODEL_BYTES} are read")
    if not survives(path):
        raise PackRefused(
            f"{path}: CatBoost cannot read it: it is no CatBoost model, or damaged or cut short; write it again with "
            "save_model"
        )
    return catboost.CatBoost().load_model(str(path), format=_format(path))


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
