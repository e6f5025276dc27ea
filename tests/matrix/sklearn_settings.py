"""The scikit-learn lines of the matrix."""

from __future__ import annotations

from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.matrix import sklearn_models as skl
from tests.matrix.setting import BRUTE, WRONG, Setting, settings

_ENSEMBLES = skl.ensembles()
_ONE_BY_ONE = "it is no sum of trees; pack the models in it one by one"

SKLEARN: tuple[Setting, ...] = tuple(
    settings(
        "scikit-learn",
        ("`DecisionTreeClassifier`", skl.fitted(skl.tree(), "well paid", filled=True)),
        ("`DecisionTreeClassifier`, missing values", skl.fitted(skl.tree(), "well paid"), WRONG),
        ("`DecisionTreeClassifier` of several classes", skl.fitted(skl.tree(), "third", filled=True)),
        (
            "`DecisionTreeClassifier`, `monotonic_cst`",
            skl.fitted(skl.tree(monotonic_cst=[1] + [0] * 9), "well paid", filled=True),
        ),
        ("`DecisionTreeRegressor`", skl.fitted(skl.regression_tree(), "log wage", filled=True)),
        ("`DecisionTreeRegressor`, missing values", skl.fitted(skl.regression_tree(), "log wage"), WRONG),
        (
            "`DecisionTreeRegressor`, full depth",
            skl.fitted(skl.regression_tree(max_depth=None), "log wage", filled=True),
        ),
        ("`DecisionTreeRegressor` of several targets", skl.fitted(skl.regression_tree(), "several", filled=True)),
        ("trees of one leaf", skl.fitted(skl.regression_tree(min_samples_leaf=800), "log wage", filled=True)),
        ("`RandomForestClassifier`", skl.fitted(skl.forest(RandomForestClassifier), "well paid", filled=True)),
        (
            "`RandomForestClassifier`, missing values",
            skl.fitted(skl.forest(RandomForestClassifier), "well paid"),
            WRONG,
        ),
        (
            "`RandomForestClassifier`, full depth",
            skl.fitted(skl.forest(RandomForestClassifier, max_depth=None), "well paid", filled=True),
        ),
        ("`RandomForestClassifier` of several classes", skl.names_for_classes),
        (
            "`RandomForestClassifier` of several classes, full depth",
            skl.fitted(skl.forest(RandomForestClassifier, max_depth=None), "third", filled=True),
        ),
        (
            "`RandomForestClassifier` of several labels",
            skl.fitted(skl.forest(RandomForestClassifier), "labels", filled=True),
        ),
        ("`RandomForestClassifier`, weights of classes and rows", skl.weighted),
        ("`RandomForestRegressor`", skl.fitted(skl.forest(RandomForestRegressor), "wage", filled=True)),
        ("`RandomForestRegressor`, missing values", skl.fitted(skl.forest(RandomForestRegressor), "wage"), WRONG),
        (
            "`RandomForestRegressor` of several targets",
            skl.fitted(skl.forest(RandomForestRegressor), "several", filled=True),
        ),
        (
            "`RandomForestRegressor`, `criterion=poisson`",
            skl.fitted(skl.forest(RandomForestRegressor, criterion="poisson"), "wage", filled=True),
        ),
        ("`RandomForestRegressor` of a DataFrame", skl.columns_by_name),
        ("`ExtraTreesClassifier`", skl.fitted(skl.forest(ExtraTreesClassifier), "third", filled=True)),
        ("`ExtraTreesClassifier`, missing values", skl.fitted(skl.forest(ExtraTreesClassifier), "well paid"), WRONG),
        ("`ExtraTreesRegressor`, missing values", skl.fitted(skl.forest(ExtraTreesRegressor), "wage"), WRONG),
        ("`GradientBoostingClassifier`", skl.boosting("well paid")),
        ("`GradientBoostingClassifier`, `loss=exponential`", skl.boosting("well paid", loss="exponential")),
        ("`GradientBoostingClassifier` of several classes", skl.boosting("third"), BRUTE),
        ("`GradientBoostingClassifier`, `init=zero`", skl.boosting("well paid", init="zero"), BRUTE),
        (
            "`GradientBoostingClassifier`, row and column sampling",
            skl.boosting("well paid", subsample=0.5, max_features=4),
        ),
        ("`GradientBoostingClassifier`, early stopping", skl.boosting_stopped_early),
        ("`GradientBoostingRegressor`", skl.boosting("wage")),
        ("`GradientBoostingRegressor`, `loss=absolute_error`", skl.boosting("wage", loss="absolute_error")),
        ("`GradientBoostingRegressor`, `loss=huber`", skl.boosting("wage", loss="huber")),
        ("`GradientBoostingRegressor`, `loss=quantile`", skl.boosting("wage", loss="quantile", alpha=0.8)),
        ("`HistGradientBoostingClassifier`", skl.histogram("well paid")),
        ("`HistGradientBoostingClassifier` of several classes", skl.histogram("third")),
        ("`HistGradientBoostingClassifier`, early stopping", skl.histogram_stopped_early),
        ("`HistGradientBoostingClassifier`, weights of classes", skl.histogram("third", class_weight="balanced")),
        ("`HistGradientBoostingRegressor`", skl.histogram("wage")),
        ("`HistGradientBoostingRegressor`, `loss=absolute_error`", skl.histogram("wage", loss="absolute_error")),
        ("`HistGradientBoostingRegressor`, `loss=quantile`", skl.histogram("wage", loss="quantile", quantile=0.8)),
        ("`HistGradientBoostingRegressor`, `loss=poisson`", skl.histogram("whole dollars", loss="poisson"), WRONG),
        ("`HistGradientBoostingRegressor`, `loss=gamma`", skl.histogram("wage", loss="gamma"), WRONG),
        (
            "`HistGradientBoostingRegressor`, `monotonic_cst`",
            skl.histogram("wage", monotonic_cst=[1, 0, 0, 0, 1] + [0] * 5),
        ),
        (
            "`HistGradientBoosting`, categorical",
            skl.categorical("well paid", HistGradientBoostingClassifier(max_iter=8, max_leaf_nodes=7)),
            BRUTE,
            WRONG,
        ),
        (
            "`HistGradientBoosting`, categorical, several classes",
            skl.categorical("third", HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=7)),
            BRUTE,
            WRONG,
        ),
        ("`HistGradientBoosting`, categorical, of a DataFrame", skl.of_frame, BRUTE, WRONG),
        ("`IsolationForest`", skl.isolated(max_samples=64)),
        (
            "`IsolationForest`, column sampling, bootstrap",
            skl.isolated(max_samples=100, max_features=4, bootstrap=True),
        ),
        (
            "`GradientBoosting`, missing values",
            skl.gaps_in_boosting,
            "it takes none; fill them in, or train a `HistGradientBoosting` model",
            "X has NaN in 'f3', and the model takes no missing values: fill them in",
        ),
        (
            "`GradientBoosting` with a model for `init`",
            skl.boosting("well paid", init=skl.tree()),
            "its margin before the first tree is no sum of trees",
            "init=DecisionTreeClassifier is not supported.*train with init=None",
        ),
        (
            "several targets of more than two classes",
            skl.several_targets_of_several_classes,
            "train a classifier for each",
            "several targets of more than two classes",
        ),
        ("a single class", skl.one_class, "there is nothing to explain", "trained on a single class"),
        (
            "`AdaBoostClassifier`",
            _ENSEMBLES["AdaBoostClassifier"],
            "its trees vote, they do not add up",
            "AdaBoostClassifier is not supported: its trees vote.*GradientBoostingClassifier",
        ),
        (
            "`AdaBoostRegressor`",
            _ENSEMBLES["AdaBoostRegressor"],
            "it predicts a median of its trees",
            "AdaBoostRegressor is not supported.*GradientBoostingRegressor",
        ),
        (
            "`BaggingClassifier`, `BaggingRegressor`",
            _ENSEMBLES["BaggingClassifier"],
            "its members may be of any kind; for trees, train a random forest",
            "BaggingClassifier is not supported.*RandomForestClassifier",
        ),
        (
            "`VotingClassifier`, `VotingRegressor`",
            _ENSEMBLES["VotingClassifier"],
            _ONE_BY_ONE,
            "VotingClassifier.*one by one",
        ),
        (
            "`StackingClassifier`, `StackingRegressor`",
            _ENSEMBLES["StackingClassifier"],
            _ONE_BY_ONE,
            "StackingClassifier.*one by one",
        ),
        (
            "`CalibratedClassifierCV`",
            _ENSEMBLES["CalibratedClassifierCV"],
            "a calibration curve is no link that is served; pack the model that it calibrates",
            "CalibratedClassifierCV is not supported: a calibration curve",
        ),
    )
)
