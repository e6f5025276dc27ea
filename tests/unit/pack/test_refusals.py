"""What cannot be proven or is not supported is refused by name, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import treelite
import xgboost

from xai_service.errors import PackRefused
from xai_service.pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array

    Train = Callable[..., xgboost.Booster]


def refused(model: Any, X: Any, out: Path, match: str, **options: Any) -> None:
    before = sorted(out.rglob("*"))
    with pytest.raises(PackRefused, match=match):
        pack(model, X, **{"name": "m", "out": out, **options})
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        (
            {"objective": "binary:hinge"},
            "objective binary:hinge is not supported, as it predicts 0 or 1 and no probability.* raw score",
        ),
        ({"objective": "reg:squarederror", "booster": "gblinear", "max_depth": None}, "booster gblinear"),
    ],
    ids=lambda value: value.get("booster", value["objective"]) if isinstance(value, dict) else None,
)
def test_objectives_and_boosters(parameters: Any, match: str, X: Float32Array, tmp_path: Path) -> None:
    target = np.arange(len(X)) % 3 if "num_class" in parameters else np.arange(len(X)) % 2
    matrix = xgboost.DMatrix(X, target, group=[len(X)])
    given = {key: value for key, value in parameters.items() if value is not None}
    refused(xgboost.train(given, matrix, 2), X, tmp_path, match)


def test_codes_that_are_no_whole_numbers(X: Float32Array, signal: Float64Array, tmp_path: Path) -> None:
    matrix = xgboost.DMatrix(X, signal, feature_types=["q"] * 4 + ["c"], enable_categorical=True)
    booster = xgboost.train({"objective": "reg:squarederror"}, matrix, 3)
    wrong = X.copy()
    wrong[7, 4] = 1.5
    refused(booster, wrong, tmp_path, r"X\[7, 4\] is 1\.5, and the feature is categorical")


def test_scikit_learn_settings(X: Float32Array, signal: Float64Array, tmp_path: Path) -> None:
    def custom(y: Any, p: Any) -> tuple[Any, Any]:
        return p - y, np.ones_like(p)

    refused(xgboost.XGBRegressor(), X, tmp_path, "not fitted")
    refused(
        xgboost.XGBRegressor(missing=0.0, n_estimators=2).fit(X, signal),
        X,
        tmp_path,
        r"missing=0\.0 is not supported.*set_params",
    )
    refused(xgboost.XGBRegressor(objective=custom, n_estimators=2).fit(X, signal), X, tmp_path, "custom objectives")


def test_things_that_are_no_model(X: Float32Array, booster: xgboost.Booster, tmp_path: Path) -> None:
    refused(xgboost.Booster(), X, tmp_path, "the model was not trained")
    (tmp_path / "broken.json").write_text('{"learner": 1}')
    refused(tmp_path / "broken.json", X, tmp_path, r"broken\.json: XGBoost cannot read it")
    refused(tmp_path / "absent.ubj", X, tmp_path, r"absent\.ubj: there is no such file")
    (tmp_path / "empty.json").write_text("{}")
    refused(
        tmp_path / "empty.json",
        X,
        tmp_path,
        r"empty\.json: XGBoost cannot read it: it is no XGBoost model.*save_model$",
    )
    (tmp_path / "cut.ubj").write_bytes(bytes(booster.save_raw("ubj")[:1000]))
    refused(tmp_path / "cut.ubj", X, tmp_path, r"cut\.ubj: XGBoost cannot read it: it is no .* cut short")
    refused(tmp_path / "model.pkl", X, tmp_path, r"pickles are never loaded.*xai_service\.pack\.pack\(\) in Python")
    refused(
        tmp_path / "model.pt",
        X,
        tmp_path,
        r"only \.json, \.ubj, \.txt, \.cbm, \.onnx are read.*scikit-learn\'s models are packed in Python",
    )
    refused(object(), X, tmp_path, "builtins.object is not supported")


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Returns a function that lets another one change each model that treelite reads."""

    def install(change: Callable[[Any], None]) -> None:
        original = treelite.frontend.from_xgboost

        def read(booster: Any) -> Any:
            model = original(booster)
            change(model)
            return model

        monkeypatch.setattr(treelite.frontend, "from_xgboost", read)

    return install


def set_field(name: str, change: Callable[[Any], Any], tree: int = 1) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        accessor = model.get_tree_accessor(tree)
        accessor.set_field(name, change(accessor.get_field(name).copy()))

    return apply


def at_root(value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_field("sum_hess", np.ones_like), r"tree 1 has cover 1\.0 on every node"),
        (set_field("sum_hess_present", np.zeros_like), "tree 1 lacks covers"),
        (set_field("sum_hess", lambda values: values[:0]), "tree 1 lacks covers|malformed"),
        (set_field("sum_hess", at_root(np.nan)), "tree 1, node 0: has a cover that is not a finite"),
        (set_field("sum_hess", at_root(-1.0)), "tree 1, node 0: has a cover that is not a finite"),
        (set_field("sum_hess", at_root(0.0)), "no row covers it"),
        (set_field("sum_hess", at_root(1e9)), "tree 1, node 0: has a cover that is not the sum"),
        (set_field("cmp", at_root(5)), "tree 1, node 0: compares otherwise"),
        (set_field("threshold", at_root(np.nan)), "tree 1, node 0: has NaN"),
        (set_field("split_index", at_root(99)), "tree 1, node 0: splits on a feature beyond the 5"),
        (set_field("cleft", at_root(0)), "tree 1 is malformed"),
        (set_field("cright", at_root(10_000)), "tree 1 is malformed"),
        (set_field("leaf_value", lambda values: np.full_like(values, np.inf)), "leaf whose value is not finite"),
        (set_field("node_type", at_root(2)), "tree 1, node 0: its set of categories is empty"),
        (set_field("node_type", at_root(9)), "tree 1, node 0: compares otherwise"),
    ],
)
def test_trees_that_cannot_be_carried(
    change: Any, match: str, X: Float32Array, booster: xgboost.Booster, tmp_path: Path, tampered: Any
) -> None:
    tampered(change)
    refused(booster, X, tmp_path, match)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (np.ones((3, 4)), "X has 4 columns, the model takes 5"),
        (np.ones((0, 5)), r"shape \(0, 5\)"),
        (np.ones(5), r"shape \(5,\)"),
        ([["a", "b", "c", "d", "e"]], "not numbers"),
        ([[1, 2, 3, 4, None]], "X holds object, not numbers"),
        ([[1, 2], [3]], "not an array of numbers"),
        (np.ma.masked_greater(np.ones((2, 5)), 2), "X is a masked array.* pass NaN"),
        ([[1, 2, 3, np.inf, 5]], r"X\[0, 3\] is inf, infinite as float32"),
        ([[1, 2, 3, 4, 5], [1, -1e39, 3, 4, 5]], r"X\[1, 1\] is -1e\+39, infinite as float32"),
    ],
)
def test_rows(rows: Any, match: str, booster: xgboost.Booster, tmp_path: Path) -> None:
    refused(booster, rows, tmp_path, match)


def test_data_frames_and_sparse_rows(booster: xgboost.Booster, tmp_path: Path) -> None:
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    frame = pandas.DataFrame(np.ones((2, 5)), columns=list("abcde"))
    refused(
        booster,
        frame.assign(b=pandas.Categorical([1, 2])),
        tmp_path,
        "column 'b' is of the dtype category.* pass the codes",
    )
    refused(booster, frame.assign(b=["x", "y"]), tmp_path, "column 'b' holds")
    refused(booster, sparse.csr_matrix(np.ones((2, 5))), tmp_path, "sparse")
    refused(booster, frame.set_axis(list("abcda"), axis=1), tmp_path, "^X has more than one column 'a'")
    refused(booster, frame, tmp_path, "'a' stands where 'z' is due", feature_names=list("zbcde"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"feature_names": ["a", "b", "c", "d", "a"]}, r"features\[4\]\.name"),
        ({"feature_names": ["a", "b", "c", "d", ""]}, r"features\[4\]\.name"),
        ({"feature_names": ["a", "b", "c", "d", 5]}, r"features\[4\]\.name"),
        ({"feature_names": ["a", "b"]}, "2 feature names for 5 features"),
        ({"feature_names": "abcde"}, "sequence of names"),
        ({"feature_names": set("abcde")}, "^feature_names: must be a sequence of names, in order, is a set"),
        ({"feature_names": 5}, "^feature_names: must be a sequence of names, in order, is a int"),
        ({"classes": "ny"}, "^classes: must be a sequence of names, in order, is a str"),
        ({"classes": 5}, "^classes: must be a sequence of names"),
        ({"raw_score": "no"}, "^raw_score: must be True or False, is 'no'"),
        ({"key": "a.key"}, r"^key: must be a PrivateKey, as PrivateKey\.load\(path\) returns it, is a str"),
        ({"name": None}, "^name None"),
        ({"classes": ["only"]}, "classes"),
        ({"classes": ["same", "same"]}, r"classes\[1\]"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "^threshold: must be a finite number, is nan"),
        ({"threshold": "x"}, "^threshold: must be a number, is 'x'"),
        ({"threshold": 7}, "^threshold: must lie between 0 and 1"),
        ({"favourable_class": "2"}, "favourable_class"),
        ({"latency_budget_ms": 0}, "^latency_budget_ms: must be greater"),
        ({"latency_budget_ms": float("inf")}, "^latency_budget_ms: must be a finite number, is inf"),
        ({"missing": "some"}, "missing is 'some'"),
        ({"name": "../m"}, "name '../m'"),
        ({"name": ""}, "name ''"),
        ({"name": ".hidden"}, "name '.hidden'"),
        ({"name": "a" * 129}, "at most 128"),
        ({"name": "m\n"}, "name"),
        ({"version": "1/2"}, "version '1/2'"),
        ({"version": ".."}, "version '..'"),
        ({"version": "٣"}, "version"),
    ],
    ids=str,
)
def test_arguments(options: Any, match: str, X: Float32Array, booster: xgboost.Booster, tmp_path: Path) -> None:
    refused(booster, X, tmp_path, match, **options)


def test_no_repository(X: Float32Array, booster: xgboost.Booster) -> None:
    with pytest.raises(PackRefused, match="out: must be the path of a model repository, is a NoneType"):
        pack(booster, X, name="m", out=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"threshold": 0.4}, {"classes": ("no", "yes")}, {"favourable_class": "1"}], ids=str
)
def test_a_regression_has_no_classes(options: Any, X: Float32Array, train: Train, tmp_path: Path) -> None:
    match = "the model is a regression: it has none|null where there are no classes"
    refused(train(2, objective="reg:squarederror"), X, tmp_path, match, **options)


def test_a_best_iteration_that_was_not_trained(X: Float32Array, train: Train, tmp_path: Path) -> None:
    booster = train(2)
    booster.set_attr(best_iteration="7")
    refused(booster, X, tmp_path, "2 boosting rounds, of which 8")
