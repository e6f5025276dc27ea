"""Pipelines on real flights, each with another way to prepare columns, and trees behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from tests.flights import STRINGS, flights

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = ["dep_delay", "distance", "hour", "month"]
KNOWN = ["origin", "dest"]  # strings that are never missing
_ROWS = 1500


@dataclass(frozen=True, eq=False)
class PipelineCase:
    """A fitted pipeline; ``X`` to pack with, and options of `pack`."""

    pipeline: Pipeline
    X: Any
    options: dict[str, Any] = field(default_factory=dict)


def xgb(**given: Any) -> Any:
    return xgboost.XGBClassifier(n_estimators=8, max_depth=4, n_jobs=1, **given)


def lgbm(**given: Any) -> Any:
    return lightgbm.LGBMClassifier(n_estimators=8, num_leaves=12, n_jobs=1, verbose=-1, **given)


def on_columns(parts: Any, model: Any = None, columns: Any = None, target: Any = None) -> Callable[[], PipelineCase]:
    """Returns what fits ``parts``, transformers with their columns, and the model behind them."""

    def fit() -> PipelineCase:
        X, y = flights().train.iloc[:_ROWS], flights().late.iloc[:_ROWS]
        steps = parts if isinstance(parts, Pipeline | ColumnTransformer) else ColumnTransformer(parts)
        rows = X if columns is None else X[columns]
        goal = y if target is None else target(X, y)
        return PipelineCase(Pipeline([("columns", steps), ("model", model or xgb())]).fit(rows, goal), rows)

    return fit


def numbers(step: Any, model: Any = None) -> Callable[[], PipelineCase]:
    """Returns what fits a step on all numbers."""
    return on_columns([("numbers", step, NUMBERS)], model)


def strings(step: Any, model: Any = None, columns: Any = KNOWN, others: Any = NUMBERS) -> Callable[[], PipelineCase]:
    """Returns what fits an encoder of strings, beside numbers as they are."""
    return on_columns([("strings", step, columns), ("numbers", "passthrough", others)], model)


def one_hot(**given: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"sparse_output": False, **given})


def imputed(encoder: Any) -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)


def to_pandas() -> PipelineCase:
    """Steps that hand on DataFrames, and choose columns by their types."""
    chosen = ColumnTransformer(
        [
            ("strings", imputed(one_hot(handle_unknown="ignore")), make_column_selector(dtype_include=object)),
            ("numbers", StandardScaler(), make_column_selector(dtype_include=np.number)),
        ]
    ).set_output(transform="pandas")
    return on_columns(chosen)()


def of_array() -> PipelineCase:
    """Numbers in an array, columns by place."""
    rows = flights().train.iloc[:_ROWS][NUMBERS].to_numpy()
    parts = [("first", make_pipeline(SimpleImputer(), StandardScaler()), slice(0, 2)), ("others", "passthrough", [3])]
    pipeline = Pipeline([("columns", ColumnTransformer(parts)), ("model", xgb())]).fit(rows, flights().late[:_ROWS])
    return PipelineCase(pipeline, rows)


def of_objects() -> PipelineCase:
    """Strings and numbers in one array."""
    rows = flights().train.iloc[:_ROWS][["origin", "distance"]].to_numpy()
    parts = [("origin", one_hot(), [0]), ("far", StandardScaler(), [1])]
    pipeline = Pipeline([("columns", ColumnTransformer(parts)), ("model", xgb())]).fit(rows, flights().late[:_ROWS])
    return PipelineCase(pipeline, rows)


def union() -> PipelineCase:
    """One column made into two."""
    both = FeatureUnion([("scaled", StandardScaler()), ("binned", KBinsDiscretizer(5, encode="ordinal"))])
    return on_columns([("both", make_pipeline(SimpleImputer(), both), NUMBERS)])()


def nested() -> PipelineCase:
    """Transformers within transformers, one of which drops a column by name."""
    inner = ColumnTransformer(
        [("scaled", MinMaxScaler(), ["distance"]), ("gone", "drop", ["month"])], remainder="passthrough"
    )
    return on_columns(
        [("inner", inner, ["distance", "month", "hour"]), ("strings", imputed(one_hot()), list(STRINGS))]
    )()


def categories_of_lightgbm() -> PipelineCase:
    """Ordinal codes that LightGBM splits by sets."""
    X, y = flights().train.iloc[:_ROWS], flights().late.iloc[:_ROWS]
    parts = [("dest", OrdinalEncoder(), ["dest"]), ("numbers", "passthrough", NUMBERS)]
    pipeline = Pipeline([("columns", ColumnTransformer(parts)), ("model", lgbm())])
    return PipelineCase(pipeline.fit(X, y, model__categorical_feature=[0]), X)


def thirds(X: pd.DataFrame, _y: Any) -> Any:
    return pd.qcut(X["dep_delay"].fillna(0), 3, labels=False, duplicates="drop")


def alone() -> PipelineCase:
    """No step but the model."""
    X, y = flights().train.iloc[:_ROWS][NUMBERS], flights().late.iloc[:_ROWS]
    return PipelineCase(Pipeline([("model", lgbm())]).fit(X, y), X)


PACKED: tuple[tuple[str, Callable[[], PipelineCase]], ...] = (
    ("`SimpleImputer`", numbers(SimpleImputer(strategy="median"))),
    ("`SimpleImputer`, `add_indicator`", numbers(SimpleImputer(add_indicator=True))),
    ("`StandardScaler`", numbers(StandardScaler())),
    ("`StandardScaler`, LightGBM", numbers(StandardScaler(), lgbm())),
    ("`MinMaxScaler`, `clip`", numbers(MinMaxScaler(clip=True))),
    ("`RobustScaler`", numbers(RobustScaler(), lgbm())),
    ("`MaxAbsScaler`", numbers(MaxAbsScaler())),
    ("`Binarizer`", numbers(make_pipeline(SimpleImputer(), Binarizer(threshold=9)))),
    ("`KBinsDiscretizer`, ordinal", numbers(make_pipeline(SimpleImputer(), KBinsDiscretizer(6, encode="ordinal")))),
    ("`SelectKBest`", numbers(make_pipeline(SimpleImputer(), SelectKBest(k=2)))),
    ("`FunctionTransformer()`", numbers(FunctionTransformer(feature_names_out="one-to-one"))),
    ("`FeatureUnion`", union),
    ("`OneHotEncoder`", strings(one_hot())),
    ("`OneHotEncoder`, `drop`", strings(one_hot(drop="first"), lgbm())),
    ("`OneHotEncoder`, `handle_unknown=ignore`", strings(one_hot(handle_unknown="ignore"))),
    (
        "`OneHotEncoder`, rare categories",
        strings(one_hot(handle_unknown="infrequent_if_exist", min_frequency=100), lgbm()),
    ),
    ("`OneHotEncoder`, missing is a category", strings(one_hot(), columns=list(STRINGS))),
    ("`OneHotEncoder`, sparse, LightGBM", strings(OneHotEncoder(), lgbm())),
    ("`OneHotEncoder`, sparse, XGBoost, strings only", strings(OneHotEncoder(), others=[])),
    ("`OneHotEncoder` of numbers", on_columns([("numbers", one_hot(), ["hour", "month"])])),
    (
        "`OneHotEncoder` of numbers, `handle_unknown=ignore`",
        on_columns(
            [("numbers", one_hot(handle_unknown="ignore"), ["hour"]), ("same", "passthrough", ["hour", "month"])]
        ),
    ),
    ("`SimpleImputer` before `OneHotEncoder`", strings(imputed(one_hot()), columns=list(STRINGS))),
    ("`OrdinalEncoder`", strings(OrdinalEncoder(), lgbm())),
    (
        "`OrdinalEncoder`, unknown and missing have codes",
        strings(
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
            columns=list(STRINGS),
        ),
    ),
    ("`OrdinalEncoder`, LightGBM's categories", categories_of_lightgbm),
    ("`TargetEncoder`", strings(TargetEncoder(cv=StratifiedKFold(5)), lgbm())),
    ("nested `ColumnTransformer`, `drop`", nested),
    ("`remainder`, columns by type, DataFrames between steps", to_pandas),
    ("an array of numbers", of_array),
    ("an array of strings and numbers", of_objects),
    ("several classes", on_columns([("o", one_hot(), KNOWN), ("n", StandardScaler(), NUMBERS)], target=thirds)),
    (
        "a regression",
        strings(one_hot(), lightgbm.LGBMRegressor(n_estimators=8, num_leaves=12, n_jobs=1, verbose=-1)),
    ),
    ("no step but the model", alone),
)

REFUSED: tuple[tuple[str, Callable[[], PipelineCase], str, str], ...] = (
    (
        "`PCA`",
        numbers(make_pipeline(SimpleImputer(), PCA(2))),
        "it mixes columns",
        r"step 'columns' / 'numbers' / 'pca', PCA: is not known to make each column of one column alone.*leave it out",
    ),
    (
        "`PolynomialFeatures`",
        numbers(make_pipeline(SimpleImputer(), PolynomialFeatures(2))),
        "it mixes columns",
        "'polynomialfeatures', PolynomialFeatures: is not known to make each column of one column alone",
    ),
    (
        "`FunctionTransformer` with a function",
        numbers(FunctionTransformer(np.abs)),
        "nothing is known of the function",
        "'numbers', FunctionTransformer: calls a function of yours.*apply it to the data before",
    ),
    (
        "`KBinsDiscretizer`, one-hot",
        numbers(make_pipeline(SimpleImputer(), KBinsDiscretizer(6, encode="onehot-dense"))),
        "it makes intervals; ordinal is packed",
        "KBinsDiscretizer: has encode='onehot-dense', which makes intervals; encode='ordinal' is taken",
    ),
    (
        "`SimpleImputer(missing_values=0)`",
        numbers(make_pipeline(SimpleImputer(), SimpleImputer(missing_values=0))),
        "rows are served with NaN for missing",
        "SimpleImputer: takes 0 for missing, and rows are served with NaN: write NaN where 0 stands",
    ),
    (
        "an encoder after a scaler",
        numbers(make_pipeline(SimpleImputer(), KBinsDiscretizer(6, encode="ordinal"), one_hot())),
        "it encodes what was computed",
        "'onehotencoder', OneHotEncoder: encodes what an earlier step computed; encode the raw column",
    ),
    (
        "sparse rows with numbers, XGBoost",
        on_columns(
            ColumnTransformer([("s", OneHotEncoder(), KNOWN), ("n", "passthrough", NUMBERS)], sparse_threshold=1)
        ),
        "XGBoost takes an absent 0 for missing",
        "makes sparse rows, in which XGBoost takes 0 for missing, also in 'dep_delay': fit it with sparse_threshold=0",
    ),
)


def table() -> str:
    """Returns the table of docs/models.md."""
    lines = ["| pipeline with | result |", "|---|---|"]
    lines += [f"| {name} | packed |" for name, _ in PACKED]
    lines += [f"| {name} | refused: {why} |" for name, _, why, _ in REFUSED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - for the docs
