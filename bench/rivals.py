"""Other libraries' exact SHAP values, each behind the same few lines.

This module runs in the rivals' own environments: Python 3.9 and up, numpy and the rival, nothing else. Each class reads
a model's folder (`bench.models`), takes its arguments ready-made (`prepare` is not timed) and runs single-threaded.
Where a library offers several ways in, the fastest of its documented ones is taken.
"""

from __future__ import annotations

import abc
import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np


class Unsuitable(Exception):
    """The rival does not compute this model."""


class Contestant(abc.ABC):
    """Something that explains, or predicts, rows of one model.

    Args:
        folder: of the model.
        background: float32 (b, features) for interventional values, ``None`` for path-dependent ones.

    Attributes:
        detail: versions and variants, for the record.
    """

    detail: str = ""

    @abc.abstractmethod
    def __init__(self, folder: Path, background: Any) -> None: ...

    def prepare(self, rows: Any) -> Any:
        """Returns what `run` takes for float32 (n, features)."""
        return rows

    @abc.abstractmethod
    def run(self, prepared: Any) -> Any:
        """What is timed."""

    @abc.abstractmethod
    def phi(self, rows: Any) -> Any:
        """Returns float64 (n, features, outputs)."""

    def compile(self) -> None:
        """What is timed as loading; only ours has it."""
        raise Unsuitable("loading is not measured")

    def base(self) -> Any:
        """Returns the base values, float64 (outputs,), or ``None`` where there are none to check."""
        return None


def _path_dependent_only(background: Any) -> None:
    if background is not None:
        raise Unsuitable("its interventional values are not measured")


class XGBoost(Contestant):
    """``Booster.predict(pred_contribs=True)``; building the DMatrix is not counted, in its favour."""

    def __init__(self, folder: Path, background: Any) -> None:
        _path_dependent_only(background)
        if not (folder / "model.ubj").exists():
            raise Unsuitable("explains its own models only")
        self._xgb: Any = importlib.import_module("xgboost")
        self.detail = f"xgboost {self._xgb.__version__}"
        self._booster = self._xgb.Booster(model_file=folder / "model.ubj")
        self._booster.set_param({"nthread": 1})

    def prepare(self, rows: Any) -> Any:
        return self._xgb.DMatrix(rows, nthread=1)

    def run(self, prepared: Any) -> Any:
        return self._booster.predict(prepared, pred_contribs=True)

    def phi(self, rows: Any) -> Any:
        values = self.run(self.prepare(rows)).astype(np.float64)
        values = values.reshape(len(rows), -1, rows.shape[1] + 1)
        return values[:, :, :-1].transpose(0, 2, 1)


class LightGBM(Contestant):
    """``Booster.predict(pred_contrib=True)``."""

    def __init__(self, folder: Path, background: Any) -> None:
        _path_dependent_only(background)
        if not (folder / "model.txt").exists():
            raise Unsuitable("explains its own models only")
        lgb: Any = importlib.import_module("lightgbm")
        self.detail = f"lightgbm {lgb.__version__}"
        self._booster = lgb.Booster(model_file=str(folder / "model.txt"))

    def run(self, prepared: Any) -> Any:
        return self._booster.predict(prepared, pred_contrib=True, num_threads=1)

    def phi(self, rows: Any) -> Any:
        values = self.run(rows).reshape(len(rows), -1, rows.shape[1] + 1)
        return values[:, :, :-1].transpose(0, 2, 1)


class _Arrays:
    """`bench.trees.Trees` as read from the file, split up by tree, all comparisons ``<=``."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "trees.npz") as file:
            self.all = {name: file[name] for name in file.files}
        threshold = self.all["threshold"].astype(np.float32)
        # A float32 row is < t exactly where it is <= the next float32 below t. Not the next double: where it has a
        # background, shap compares float32.
        below = np.nextafter(threshold, np.float32(-np.inf))
        self.all["threshold"] = np.where(self.all["inclusive"], threshold, below).astype(np.float64)
        self.n_outputs = len(self.all["base"])

    def trees(self) -> Any:
        begin = self.all["begin"]
        for t in range(len(begin) - 1):
            part = slice(begin[t], begin[t + 1])
            names = ("left", "right", "feature", "threshold", "missing_left", "value", "cover")
            tree = {name: self.all[name][part] for name in names}
            tree["output"] = int(self.all["output"][t])
            yield tree


class _ShapExtension(Contestant):
    """Calls ``_cext.dense_tree_shap`` itself: shap gives XGBoost's and LightGBM's models to those libraries."""

    module = ""

    def __init__(self, folder: Path, background: Any) -> None:
        shap: Any = importlib.import_module(self.module)
        trees: Any = importlib.import_module(f"{self.module}.explainers._tree")
        self._cext: Any = importlib.import_module(f"{self.module}._cext")
        self.detail = f"{self.module} {shap.__version__}"
        arrays = _Arrays(folder)
        data, missing = None, None
        if background is not None:
            data = np.ascontiguousarray(background, np.float64)
            missing = np.isnan(data)
        self._data = (data, missing)
        self._perturbation = trees.feature_perturbation_codes[
            "tree_path_dependent" if background is None else "interventional"
        ]
        self._transform = trees.output_transform_codes["identity"]
        self._model = trees.TreeEnsemble({"trees": [self._tree(tree, arrays.n_outputs) for tree in arrays.trees()]})

    @staticmethod
    def _tree(tree: Any, n_outputs: int) -> Any:
        values = np.zeros((len(tree["left"]), n_outputs))
        values[:, tree["output"]] = tree["value"]
        return {
            "children_left": tree["left"],
            "children_right": tree["right"],
            "children_default": np.where(tree["missing_left"], tree["left"], tree["right"]),
            "features": np.where(tree["left"] < 0, -2, tree["feature"]),
            "thresholds": tree["threshold"],
            "values": values,
            "node_sample_weight": tree["cover"],
        }

    def prepare(self, rows: Any) -> Any:
        X = np.ascontiguousarray(rows, np.float64)
        return X, np.isnan(X)

    def phi(self, rows: Any) -> Any:
        return self.run(self.prepare(rows))[:, :-1]


class Shap(_ShapExtension):
    """shap's C extension."""

    module = "shap"

    def run(self, prepared: Any) -> Any:
        X, missing = prepared
        m = self._model
        phi = np.zeros((len(X), X.shape[1] + 1, m.num_outputs))
        self._cext.dense_tree_shap(
            *(m.children_left, m.children_right, m.children_default, m.features, m.thresholds, m.threshold_types),
            *(
                m.values,
                m.node_sample_weight,
                m.max_depth,
                X,
                missing,
                None,
                *self._data,
                len(m.values),
                m.base_offset,
                phi,
            ),
            *(self._perturbation, self._transform, False),
        )
        return phi


class FastTreeShap(_ShapExtension):
    """fasttreeshap's C extension, algorithm v2: the one that precomputes."""

    module = "fasttreeshap"

    def __init__(self, folder: Path, background: Any) -> None:
        _path_dependent_only(background)
        super().__init__(folder, background)
        m = self._model
        combinations = (int(max(m.num_nodes)) + 1) // 2 * 2 ** int(m.max_depth) * 8
        if m.num_outputs > 1:
            raise Unsuitable("its v2 fails on several outputs")
        if combinations > 1 << 30:
            raise Unsuitable("its v2 would take more than 1 GiB for one tree")
        codes: Any = importlib.import_module("fasttreeshap.explainers._tree").algorithm_codes
        # As its _memory_check: v2_1 computes the table tree by tree, v2_2 keeps those of all trees.
        self._algorithm = codes["v2_1"]

    def run(self, prepared: Any) -> Any:
        X, missing = prepared
        m = self._model
        phi = np.zeros((len(X), X.shape[1] + 1, m.num_outputs))
        self._cext.dense_tree_shap(
            *(m.children_left, m.children_right, m.children_default, m.features, m.thresholds, m.values),
            *(m.node_sample_weight, m.max_depth, X, missing, None, *self._data, len(m.values), m.base_offset, phi),
            *(self._perturbation, self._transform, self._algorithm, 1, False),
        )
        return phi


class Shapiq(Contestant):
    """shapiq's quadrature explainer, one for each output; rows one by one, as its own explain_X takes them."""

    def __init__(self, folder: Path, background: Any) -> None:
        _path_dependent_only(background)
        shapiq: Any = importlib.import_module("shapiq")
        self.detail = f"shapiq {shapiq.__version__}"
        try:
            base: Any = importlib.import_module("shapiq.tree.base")
            explainer: Any = importlib.import_module("shapiq.tree.quadrature").QuadratureTreeSHAP
        except ImportError:
            raise Unsuitable("before 1.8 it has no quadrature explainer; see --setup-peers") from None
        arrays = _Arrays(folder)
        by_output: list[list[Any]] = [[] for _ in range(arrays.n_outputs)]
        for tree in arrays.trees():
            leaf = tree["left"] < 0
            if len(leaf) == 1:
                continue  # a constant moves the base value only
            by_output[tree["output"]].append(
                base.TreeModel(
                    children_left=tree["left"],
                    children_right=tree["right"],
                    children_missing=np.where(tree["missing_left"], tree["left"], tree["right"]),
                    features=np.where(leaf, -2, tree["feature"]),
                    thresholds=np.where(leaf, np.nan, tree["threshold"]),
                    values=tree["value"],
                    node_sample_weight=tree["cover"],
                    decision_type="<=",
                )
            )
        self._explainers = [explainer(trees) for trees in by_output]

    def run(self, prepared: Any) -> Any:
        return [[explainer.explain(row) for explainer in self._explainers] for row in prepared]

    def phi(self, rows: Any) -> Any:
        values = np.zeros((len(rows), rows.shape[1], len(self._explainers)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i, explained in enumerate(self.run(rows)):
                for k, result in enumerate(explained):
                    for feature in range(rows.shape[1]):
                        values[i, feature, k] = result.dict_values.get((feature,), 0.0)
        return values
