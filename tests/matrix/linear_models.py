"""Linear models on real people and real flights, and those that are refused: the list that docs/models.md shows.

``python -m tests.matrix.linear_models`` prints the table for the docs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from skl2onnx import to_onnx
from sklearn import linear_model as lm
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC, LinearSVR

from tests.flights import STRINGS, flights
from tests.matrix.data import NAMES, people
from tests.matrix.pipeline_models import KNOWN, NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 1200


@dataclass(frozen=True, eq=False)
class LinearCase:
    """A fitted model; ``X`` to pack with, options of `pack`, and the ONNX file to pack in the model's place."""

    model: Any
    X: Any
    options: dict[str, Any] = field(default_factory=dict)
    file: Any = None


def fitted(model: Any, target: str, **options: Any) -> Callable[[], LinearCase]:
    """Returns what fits the model to people without a gap, and columns of very different sizes."""

    def fit() -> LinearCase:
        return LinearCase(model.fit(people().filled, people().targets[target]), people().filled, options)

    return fit


def of_frame() -> LinearCase:
    import pandas as pd  # noqa: PLC0415 - only this setting wants it

    X = pd.DataFrame(people().filled, columns=list(NAMES))
    model = lm.LogisticRegression(max_iter=3000)
    return LinearCase(model.fit(X, np.where(people().targets["well paid"] > 0, "yes", "no")), X)


def years() -> LinearCase:
    """A column of 2008 and thereabouts, whose weight times the mean is taken off by the intercept."""
    rng = np.random.default_rng(0)
    X = np.column_stack([2007 + rng.integers(0, 3, 600), rng.normal(size=600)]).astype(np.float32)
    return LinearCase(lm.LinearRegression().fit(X, X[:, 0] - 2007 + 0.1 * X[:, 1]), X)


def on_flights(parts: Any, model: Any = None, target: Any = None, **options: Any) -> Callable[[], LinearCase]:
    """Returns what fits a pipeline of transformers with their columns, and a linear model behind them."""

    def fit() -> LinearCase:
        X, y = flights().train.iloc[:_ROWS], flights().late.iloc[:_ROWS]
        goal = y if target is None else target(X, y)
        last = lm.LogisticRegression(max_iter=2000) if model is None else model
        return LinearCase(Pipeline([("columns", ColumnTransformer(parts)), ("model", last)]).fit(X, goal), X, options)

    return fit


def numbers(step: Any, model: Any = None) -> Callable[[], LinearCase]:
    return on_flights([("numbers", step, NUMBERS)], model)


def filled(step: Any) -> Any:
    return make_pipeline(SimpleImputer(strategy="median"), step)


def scaled() -> tuple[str, Any, list[str]]:
    return ("numbers", filled(StandardScaler()), NUMBERS)


def delay_thirds(X: Any, _y: Any) -> Any:
    return np.digitize(X["dep_delay"].fillna(0), [-3, 5])


def delay(X: Any, _y: Any) -> Any:
    return X["dep_delay"].fillna(0)


def two_delays(X: Any, y: Any) -> Any:
    return np.column_stack([X["dep_delay"].fillna(0), y])


def weights() -> LinearCase:
    """Parts of a union that count more or less, and one column in two of them."""
    both = FeatureUnion([("a", RobustScaler()), ("b", MaxAbsScaler())], transformer_weights={"a": 2.5})
    return numbers(filled(both))()


PACKED: tuple[tuple[str, Callable[[], LinearCase]], ...] = (
    ("`LinearRegression`", fitted(lm.LinearRegression(), "log wage")),
    ("`LinearRegression` of several targets", fitted(lm.LinearRegression(), "several")),
    ("`LinearRegression`, a year beside its intercept", years),
    ("`Ridge`, `fit_intercept=False`", fitted(lm.Ridge(fit_intercept=False), "log wage")),
    ("`RidgeCV`", fitted(lm.RidgeCV(), "log wage")),
    ("`Lasso`", fitted(lm.Lasso(0.01), "log wage")),
    ("`ElasticNet`", fitted(lm.ElasticNet(0.01), "log wage")),
    ("`MultiTaskLasso`", fitted(lm.MultiTaskLasso(0.01), "several")),
    ("`LassoLars`", fitted(lm.LassoLars(0.001), "log wage")),
    ("`BayesianRidge`", fitted(lm.BayesianRidge(), "log wage")),
    ("`HuberRegressor`", fitted(lm.HuberRegressor(max_iter=1000), "log wage")),
    ("`QuantileRegressor`", fitted(lm.QuantileRegressor(alpha=0.01), "log wage")),
    ("`LinearSVR`", fitted(LinearSVR(max_iter=100), "log wage")),
    ("`SGDRegressor`", numbers(filled(StandardScaler()), lm.SGDRegressor())),
    ("`PoissonRegressor`", fitted(lm.PoissonRegressor(solver="newton-cholesky"), "whole dollars")),
    ("`GammaRegressor`", fitted(lm.GammaRegressor(solver="newton-cholesky"), "wage")),
    ("`TweedieRegressor`", fitted(lm.TweedieRegressor(power=1.5, solver="newton-cholesky"), "wage")),
    ("`TweedieRegressor`, `power=0`", fitted(lm.TweedieRegressor(power=0, solver="newton-cholesky"), "wage")),
    ("`LogisticRegression`", fitted(lm.LogisticRegression(max_iter=5000), "well paid")),
    ("`LogisticRegression` of several classes", fitted(lm.LogisticRegression(max_iter=9000), "third")),
    ("`LogisticRegression` of a DataFrame, names for classes", of_frame),
    ("`LogisticRegression`, against a background", fitted(
        lm.LogisticRegression(max_iter=5000), "well paid", background=people().filled[:50])),
    ("`LogisticRegressionCV`", fitted(lm.LogisticRegressionCV(
        Cs=2, cv=2, max_iter=5000, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"), "well paid")),
    ("`SGDClassifier(loss='log_loss')`", numbers(filled(StandardScaler()), lm.SGDClassifier(loss="log_loss"))),
    ("`LinearDiscriminantAnalysis`", fitted(LinearDiscriminantAnalysis(), "well paid")),
    ("`LinearDiscriminantAnalysis` of several classes", fitted(LinearDiscriminantAnalysis(), "third")),
    ("`RidgeClassifier`, `raw_score`", fitted(lm.RidgeClassifier(), "third", raw_score=True)),
    ("`LinearSVC`, `raw_score`", fitted(LinearSVC(max_iter=100), "well paid", raw_score=True)),
    ("`Perceptron`, `raw_score`", fitted(lm.Perceptron(), "well paid", raw_score=True)),
    ("`SGDClassifier` of several classes, `raw_score`", fitted(
        lm.SGDClassifier(loss="log_loss"), "third", raw_score=True)),
    ("`StandardScaler` before it", numbers(filled(StandardScaler()))),
    ("`SimpleImputer`, `add_indicator`, before it", numbers(
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()))),
    ("`MinMaxScaler` before a regression", numbers(filled(MinMaxScaler()), lm.Ridge())),
    ("a weighted `FeatureUnion` of scalers before it", weights),
    ("`SelectKBest` before it", numbers(filled(SelectKBest(k=2)))),
    ("scorecard: scaled numbers, `OneHotEncoder` of strings", on_flights(
        [scaled(), ("strings", OneHotEncoder(), KNOWN)])),
    ("scorecard, `drop`, unknown and rare categories", on_flights(
        [scaled(), ("strings", OneHotEncoder(
            drop="first", handle_unknown="infrequent_if_exist", min_frequency=60), list(STRINGS))])),
    ("scorecard, missing strings imputed", on_flights(
        [scaled(), ("strings", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(
            handle_unknown="ignore")), list(STRINGS))])),
    ("scorecard of several classes", on_flights(
        [scaled(), ("strings", OneHotEncoder(handle_unknown="ignore"), list(STRINGS))], target=delay_thirds)),
    ("scorecard, strings only", on_flights([("strings", OneHotEncoder(), KNOWN)])),
    ("`OneHotEncoder` of numbers, which are passed on too", on_flights(
        [("hours", OneHotEncoder(handle_unknown="ignore"), ["hour"]), ("numbers", filled(StandardScaler()), NUMBERS)])),
    ("`OneHotEncoder` of numbers, unknown ones refused", on_flights([("hours", OneHotEncoder(), ["hour", "month"])])),
    ("`OrdinalEncoder` before it", on_flights(
        [scaled(), ("strings", OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2), list(STRINGS))])),
    ("`TargetEncoder` before it", on_flights(
        [scaled(), ("strings", TargetEncoder(cv=StratifiedKFold(5)), KNOWN)])),
    ("scorecard for several targets", on_flights(
        [scaled(), ("strings", OneHotEncoder(), KNOWN)], lm.LinearRegression(), two_delays)),
    ("scorecard, `PoissonRegressor`, against a background", on_flights(
        [scaled(), ("strings", OneHotEncoder(), KNOWN)], lm.PoissonRegressor(), None,
        background=flights().train.iloc[:40])),
)  # fmt: skip


def converted(model: Any, target: str, gaps: bool = False, **options: Any) -> Callable[[], LinearCase]:
    """Returns what fits the model and hands over skl2onnx's file of it; options are the converter's."""

    def fit() -> LinearCase:
        X, y = people().rows if gaps else people().filled, people().targets[target]
        fitted_model = model.fit(X, y.astype(int) if hasattr(model, "predict_proba") else y)
        file = to_onnx(fitted_model, X[:1], target_opset={"": 18, "ai.onnx.ml": 3}, options=options or None)
        return LinearCase(fitted_model, X, file=file)

    return fit


FILES: tuple[tuple[str, Callable[[], LinearCase]], ...] = (
    ("ONNX file: skl2onnx, `LinearRegression`", converted(lm.LinearRegression(), "log wage")),
    ("ONNX file: skl2onnx, several targets", converted(lm.LinearRegression(), "several")),
    ("ONNX file: skl2onnx, `LogisticRegression` with `ZipMap`", converted(
        lm.LogisticRegression(max_iter=5000), "well paid")),
    ("ONNX file: skl2onnx, `LogisticRegression` of several classes", converted(
        lm.LogisticRegression(max_iter=9000), "third", zipmap=False)),
    ("ONNX file: skl2onnx, imputer and scaler before it", converted(
        make_pipeline(SimpleImputer(), StandardScaler(), lm.LogisticRegression()), "well paid", gaps=True)),
)  # fmt: skip

_MARGIN = "it predicts no probability; pack its margin, `raw_score`"

REFUSED: tuple[tuple[str, Callable[[], LinearCase], str, str], ...] = (
    (
        "`RidgeClassifier`",
        fitted(lm.RidgeClassifier(), "well paid"),
        _MARGIN,
        r"RidgeClassifier is not supported as a classifier, as it predicts no probability: .*raw_score=True",
    ),
    (
        "`LinearSVC`",
        fitted(LinearSVC(max_iter=100), "well paid"),
        _MARGIN,
        "LinearSVC .*no probability.*raw_score=True",
    ),
    ("`Perceptron`", fitted(lm.Perceptron(), "well paid"), _MARGIN, "Perceptron .*no probability.*raw_score=True"),
    (
        "`SGDClassifier(loss='hinge')`",
        fitted(lm.SGDClassifier(), "well paid"),
        _MARGIN,
        "SGDClassifier with loss='hinge' is not supported.*raw_score=True",
    ),
    (
        "`SGDClassifier` of several classes",
        fitted(lm.SGDClassifier(loss="log_loss"), "third"),
        "its probabilities are made to add up to 1 by no link; pack its margins, `raw_score`",
        "SGDClassifier of several classes .*made to add up to 1.*raw_score=True",
    ),
    (
        "`KBinsDiscretizer` before it",
        numbers(filled(KBinsDiscretizer(4, encode="ordinal", quantile_method="averaged_inverted_cdf"))),
        "it is no straight line; apply it to the data before",
        "'kbinsdiscretizer', KBinsDiscretizer: gives no straight line .*apply it to the data before",
    ),
    (
        "`MinMaxScaler`, `clip`, before it",
        numbers(filled(MinMaxScaler(clip=True))),
        "beyond its range it is no straight line",
        r"'minmaxscaler', MinMaxScaler\(clip=True\): gives no straight line",
    ),
    (
        "`QuantileTransformer` before it",
        numbers(filled(QuantileTransformer(n_quantiles=50))),
        "it is no straight line; apply it to the data before",
        "'quantiletransformer', QuantileTransformer: .*apply it to the data before",
    ),
    (
        "`PowerTransformer` before it",
        numbers(filled(PowerTransformer())),
        "it is no straight line; apply it to the data before",
        "'powertransformer', PowerTransformer: .*apply it to the data before",
    ),
    (
        "`SplineTransformer` before it",
        numbers(filled(SplineTransformer())),
        "it is no straight line; apply it to the data before",
        "'splinetransformer', SplineTransformer: .*apply it to the data before",
    ),
    (
        "`RANSACRegressor`",
        fitted(lm.RANSACRegressor(), "log wage"),
        "pack what it found, its `estimator_`",
        "RANSACRegressor is not supported: pack what it found, its estimator_",
    ),
    (
        '`covers="count"`',
        fitted(lm.LinearRegression(), "log wage", covers="count"),
        "it has no covers",
        "covers='count': a linear model has no covers",
    ),
)


def table() -> str:
    """Returns the table of docs/models.md."""
    lines = ["| linear model | result |", "|---|---|"]
    lines += [f"| {name} | packed |" for name, _ in (*PACKED, *FILES)]
    lines += [f"| {name} | refused: {why} |" for name, _, why, _ in REFUSED]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - for the docs
