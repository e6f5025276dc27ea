"""Which reader takes a model: by the module that its class comes from, or by the name of its file.

A reader is a module with ``read(model, *, raw_score)``, which returns a `NativeModel`, and ``load(path)``, which
returns a model for it. Each needs its library, and is imported when a model asks for it. Pickles are never loaded:
unpickling a file runs whatever code stands in it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_service.errors import PackRefused
from xai_service.pack.native import NativeModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xai_service.types import Float32Array

# The model's library → its reader in this package. A model may be of a class derived from the library's.
# XGBoost, LightGBM and CatBoost derive theirs from scikit-learn's base classes.
_LIBRARIES: Mapping[str, str] = {
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "sklearn": "sklearn",
    "onnx": "onnx_file",
}
_SUFFIXES: Mapping[str, str] = {
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".txt": "lightgbm",
    ".cbm": "catboost",
    ".onnx": "onnx_file",
}
_CATBOOST_JSON = re.compile(rb'\s*\{\s*"(ctr_data|features_info|model_info|oblivious_trees|scale_and_bias|trees)"')
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")


def read(model: Any, *, raw_score: bool = False) -> NativeModel:
    """Returns the neutral description of a model.

    Args:
        model: of a supported library, the path of its file, or a description already.
        raw_score: take it for a regression of its margin, whatever its objective is.

    Raises:
        PackRefused: not a model that is supported, its library is missing, or it has a setting that is not supported.
    """
    if isinstance(model, NativeModel):
        return model
    if isinstance(model, (str, Path)):
        path = Path(model)
        reader = _import(_of_file(path))
        model = reader.load(path)
    else:
        reader = _import(_of_class(type(model)))
    native: NativeModel = reader.read(model, raw_score=raw_score)
    return native


def is_pipeline(model: Any) -> bool:
    """Whether the model is a scikit-learn Pipeline, of any module's class derived from it."""
    return any(kind.__module__ == "sklearn.pipeline" and kind.__name__ == "Pipeline" for kind in type(model).__mro__)


def read_pipeline(model: Any, X: Any, *, raw_score: bool = False) -> tuple[NativeModel, Float32Array]:
    """Returns the neutral description of a fitted pipeline on its raw columns, and the raw rows as they are served.

    Raises:
        PackRefused: see `xai_service.pack.pipeline.read`.
    """
    found: tuple[NativeModel, Float32Array] = _import("pipeline").read(model, X, raw_score=raw_score)
    return found


def _of_class(kind: type) -> str:
    for base in kind.__mro__:
        library = base.__module__.split(".")[0]
        if library in _LIBRARIES:
            return _LIBRARIES[library]
    raise PackRefused(
        f"{kind.__module__}.{kind.__qualname__} is not supported; a model of "
        f"{', '.join(_LIBRARIES)} is, or the path of a {', '.join(_SUFFIXES)} file"
    )


def _of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise PackRefused(
            f"{path}: pickles are never loaded, as that would run the code in them; save the model with its own "
            "library (XGBoost: save_model to .ubj, LightGBM: save_model to .txt, CatBoost: save_model to .cbm), or "
            "call xai_service.pack.pack() in Python with the model itself, the only way for scikit-learn"
        )
    if suffix not in _SUFFIXES:
        raise PackRefused(
            f"{path}: only {', '.join(_SUFFIXES)} are read: .json and .ubj as XGBoost's save_model writes them, "
            ".txt as LightGBM's does, .cbm and .json as CatBoost's does, .onnx as converters do; scikit-learn's models "
            "are packed in Python, by xai_service.pack.pack()"
        )
    if not path.is_file():
        raise PackRefused(f"{path}: there is no such file")
    return "catboost" if suffix == ".json" and _is_catboost(path) else _SUFFIXES[suffix]


def _is_catboost(path: Path) -> bool:
    """Whether a .json file begins as CatBoost's do, not as XGBoost's."""
    try:
        with path.open("rb") as stream:
            return _CATBOOST_JSON.match(stream.read(256)) is not None
    except OSError as error:
        raise PackRefused(f"{path}: cannot be read: {error.strerror}") from error


def _import(reader: str) -> Any:
    try:
        return importlib.import_module(f"xai_service.pack.{reader}")
    except ModuleNotFoundError as error:
        extra = "catboost" if error.name == "catboost" else "pack"
        raise PackRefused(f"packing needs {error.name}: pip install 'xai-service[{extra}]'") from error
