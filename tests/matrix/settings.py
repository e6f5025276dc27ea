"""Every setting of a model that `pack` is known to take or to refuse: the one list that docs/models.md shows.

``python -m tests.matrix.settings`` prints the table for the docs.
"""

from __future__ import annotations

from tests.matrix import lightgbm_models as lgb
from tests.matrix import onnx_models
from tests.matrix import xgboost_models as xgb
from tests.matrix.catboost_settings import CATBOOST
from tests.matrix.setting import BRUTE, WRONG, Setting, settings
from tests.matrix.sklearn_settings import SKLEARN

SETTINGS: tuple[Setting, ...] = (
    *settings(
        "XGBoost",
        ("`binary:logistic`", xgb.trained("well paid", objective="binary:logistic")),
        ("`binary:logitraw`", xgb.trained("well paid", objective="binary:logitraw")),
        ("`binary:logistic` with several labels", xgb.trained("labels", objective="binary:logistic"), WRONG),
        ("`multi:softprob`", xgb.trained("third", objective="multi:softprob", num_class=3)),
        ("`multi:softmax`", xgb.trained("third", objective="multi:softmax", num_class=3)),
        ("`reg:squarederror`", xgb.trained("log wage", objective="reg:squarederror")),
        ("`reg:squaredlogerror`", xgb.trained("wage", objective="reg:squaredlogerror")),
        ("`reg:absoluteerror`", xgb.trained("wage", objective="reg:absoluteerror")),
        (
            "`reg:pseudohubererror`",
            xgb.trained("log wage", objective="reg:pseudohubererror", min_child_weight=0, base_score=6),
        ),
        ("`reg:quantileerror`", xgb.trained("wage", objective="reg:quantileerror", quantile_alpha=0.7)),
        (
            "`reg:quantileerror` with several quantiles",
            xgb.trained("wage", objective="reg:quantileerror", quantile_alpha=[0.1, 0.5, 0.9]),
            WRONG,
        ),
        ("`reg:logistic`", xgb.trained("share", objective="reg:logistic"), WRONG),
        ("`count:poisson`", xgb.trained("whole dollars", objective="count:poisson")),
        ("`reg:gamma`", xgb.trained("wage", objective="reg:gamma")),
        ("`reg:tweedie`", xgb.trained("wage", objective="reg:tweedie")),
        ("`survival:cox`", xgb.trained("wage", objective="survival:cox", eta=0.02)),
        ("`survival:aft`", xgb.survival, WRONG),
        ("`rank:pairwise`", xgb.ranked("rank:pairwise"), WRONG),
        ("`rank:ndcg`", xgb.ranked("rank:ndcg"), WRONG),
        ("`rank:map`", xgb.ranked("rank:map", "well paid"), WRONG),
        ("several targets, a tree for each", xgb.trained("several", objective="reg:squarederror"), WRONG),
        (
            "several targets, `multi_output_tree`",
            xgb.trained("several", objective="reg:squarederror", multi_strategy="multi_output_tree"),
            WRONG,
            BRUTE,
        ),
        (
            "several classes, `multi_output_tree`",
            xgb.trained("third", objective="multi:softprob", num_class=3, multi_strategy="multi_output_tree"),
            WRONG,
            BRUTE,
        ),
        ("`dart`", xgb.trained("well paid", objective="binary:logistic", booster="dart", rate_drop=0.5), WRONG),
        (
            "`dart` with several classes",
            xgb.trained("third", objective="multi:softprob", num_class=3, booster="dart", rate_drop=0.5),
            WRONG,
        ),
        (
            "`num_parallel_tree`",
            xgb.trained("log wage", objective="reg:squarederror", num_parallel_tree=4, subsample=0.5),
            WRONG,
        ),
        ("random forest (`XGBRFClassifier`)", xgb.random_forest, WRONG),
        ("early stopping, Booster", xgb.stopped_early),
        ("early stopping, scikit-learn interface", xgb.stopped_early_classifier),
        ("`base_score` given", xgb.trained("well paid", objective="binary:logistic", base_score=0.1)),
        ("`base_score` of each target", xgb.base_scores, WRONG),
        ("`XGBClassifier` of several classes", xgb.classifier),
        ("`XGBRegressor`", xgb.regressor),
        ("`XGBRanker`", xgb.ranker),
        (".json file", xgb.saved(".json")),
        (".ubj file", xgb.saved(".ubj")),
        ("categorical, one-hot splits", xgb.categorical(max_cat_to_onehot=100)),
        ("categorical, splits by sets", xgb.categorical(max_cat_to_onehot=1)),
        ("categorical, of a DataFrame", xgb.of_frame),
        ("`tree_method=exact`", xgb.trained("well paid", objective="binary:logistic", tree_method="exact")),
        ("`tree_method=approx`", xgb.trained("well paid", objective="binary:logistic", tree_method="approx")),
        (
            "`grow_policy=lossguide`",
            xgb.trained("well paid", objective="binary:logistic", grow_policy="lossguide", max_leaves=12, max_depth=0),
        ),
        (
            "`monotone_constraints`",
            xgb.trained("log wage", objective="reg:squarederror", monotone_constraints="(1,0,0,0,1,1,0,0,0,0)"),
        ),
        ("deep trees", xgb.trained("log wage", objective="reg:squarederror", max_depth=14, min_child_weight=0)),
        ("trees of one leaf", xgb.trained("log wage", objective="reg:squarederror", gamma=1e9)),
        (
            "`scale_pos_weight`, row sampling",
            xgb.trained("well paid", objective="binary:logistic", scale_pos_weight=5, subsample=0.4),
        ),
        ("custom objective, `raw_score`", xgb.custom(raw_score=True)),
        ("custom objective", xgb.custom(), "nothing says what its margins mean", "custom objectives .*raw_score"),
        (
            "`binary:hinge`",
            xgb.trained("well paid", objective="binary:hinge"),
            "it predicts no probability",
            "binary:hinge is not supported, as it predicts 0 or 1 and no probability: train with binary:logistic",
            WRONG,
        ),
        (
            "`gblinear`",
            xgb.trained("log wage", objective="reg:squarederror", booster="gblinear", max_depth=None),
            "it has no trees",
            "booster gblinear is not supported",
        ),
        (
            "`missing=` other than NaN",
            xgb.missing_is_a_number,
            "rows are served with NaN; the trees are the same, `set_params(missing=nan)`",
            r"missing=-1\.0 is not supported.*set_params\(missing=float\('nan'\)\)",
        ),
    ),
    *settings(
        "LightGBM",
        ("`binary`", lgb.trained("well paid", objective="binary")),
        ("`binary` with `sigmoid`", lgb.trained("well paid", objective="binary", sigmoid=2.5), WRONG),
        ("`multiclass`", lgb.trained("third", objective="multiclass", num_class=3)),
        ("`multiclassova`", lgb.trained("third", objective="multiclassova", num_class=3), WRONG),
        (
            "`multiclassova` with `sigmoid`",
            lgb.trained("third", objective="multiclassova", num_class=3, sigmoid=0.5),
            WRONG,
        ),
        ("`regression`", lgb.trained("log wage", objective="regression")),
        ("`regression_l1`", lgb.trained("wage", objective="regression_l1")),
        ("`huber`", lgb.trained("wage", objective="huber")),
        ("`fair`", lgb.trained("wage", objective="fair")),
        ("`quantile`", lgb.trained("wage", objective="quantile", alpha=0.8)),
        ("`mape`", lgb.trained("wage", objective="mape")),
        ("`poisson`", lgb.trained("whole dollars", objective="poisson")),
        ("`gamma`", lgb.trained("wage", objective="gamma")),
        ("`tweedie`", lgb.trained("wage", objective="tweedie")),
        ("`cross_entropy`", lgb.trained("share", objective="cross_entropy")),
        ("`lambdarank`", lgb.ranked("lambdarank")),
        ("`rank_xendcg`", lgb.ranked("rank_xendcg")),
        ("`dart`", lgb.trained("well paid", objective="binary", boosting="dart", drop_rate=0.5)),
        ("`rf`", lgb.forest("well paid", objective="binary"), WRONG),
        ("`rf` with several classes", lgb.forest("third", objective="multiclass", num_class=3), WRONG),
        ("`rf` for a regression", lgb.forest("log wage", objective="regression"), WRONG),
        ("`goss`", lgb.trained("log wage", objective="regression", data_sample_strategy="goss")),
        (
            "bagging, `feature_fraction`",
            lgb.trained("wage", objective="regression", bagging_fraction=0.5, bagging_freq=1),
        ),
        ("`extra_trees`", lgb.trained("log wage", objective="regression", extra_trees=True)),
        ("`use_missing=false`", lgb.trained("log wage", objective="regression", use_missing=False)),
        ("thresholds near 0", lgb.near_zero, WRONG),
        ("`monotone_constraints`", lgb.trained("log wage", objective="regression", monotone_constraints=[1] + [0] * 9)),
        ("trees of one leaf", lgb.trained("log wage", objective="regression", min_data_in_leaf=10_000)),
        ("early stopping, Booster", lgb.stopped_early),
        ("early stopping, scikit-learn interface", lgb.stopped_early_classifier),
        ("`LGBMClassifier` with names for classes", lgb.classifier),
        ("`LGBMRanker`", lgb.ranker),
        (".txt file", lgb.saved),
        ("names with spaces", lgb.names_with_spaces),
        ("categorical", lgb.categorical),
        ("categorical, of a DataFrame", lgb.of_frame),
        ("custom objective, `raw_score`", lgb.custom(raw_score=True)),
        ("custom objective", lgb.custom(), "nothing says what its margins mean", "custom objective mean.*raw_score"),
        (
            "`linear_tree`",
            lgb.trained("log wage", objective="regression", linear_tree=True),
            "its leaves are linear models",
            "linear_tree is not supported",
            WRONG,
        ),
        (
            "`zero_as_missing`",
            lgb.trained("log wage", objective="regression", zero_as_missing=True),
            "ONNX knows no trees that take 0 for missing",
            "zero_as_missing is not supported.*write NaN",
            WRONG,
        ),
        (
            "`reg_sqrt`",
            lgb.trained("wage", objective="regression", reg_sqrt=True),
            "it predicts the margin's signed square",
            "reg_sqrt is not supported.*train on the root",
            WRONG,
        ),
        (
            "`cross_entropy_lambda`",
            lgb.trained("share", objective="cross_entropy_lambda"),
            "its link is not among those served",
            r"cross_entropy_lambda is not supported: its link, log\(1 \+ exp\(margin\)\)",
        ),
    ),
    *SKLEARN,
    *CATBOOST,
    *settings("ONNX file", *onnx_models.SETTINGS),
)


def table() -> str:
    """Returns the table of docs/models.md."""
    lines = ["| library | setting | result | usual converter |", "|---|---|---|---|"]
    lines += [
        f"| {one.library} | {one.name} | {one.result} | {'silently wrong' if one.stock_wrong else ''} |".replace(
            "|  |", "| |"
        )
        for one in SETTINGS
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201 - for the docs
