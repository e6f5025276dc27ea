"""The CatBoost lines of the matrix."""

from __future__ import annotations

from tests.matrix import catboost_models as cat
from tests.matrix.setting import BRUTE, WRONG, Setting, settings

_STATISTICS = "CatBoost turns them into statistics of the target that no ONNX tree computes"

CATBOOST: tuple[Setting, ...] = tuple(
    settings(
        "CatBoost",
        ("`Logloss`", cat.trained("well paid", "Logloss")),
        ("`CrossEntropy`", cat.trained("share", "CrossEntropy")),
        ("`MultiClass`", cat.trained("third", "MultiClass")),
        ("`MultiClassOneVsAll`", cat.trained("third", "MultiClassOneVsAll"), WRONG),
        ("`MultiLogloss`", cat.trained("labels", "MultiLogloss"), WRONG),
        ("`MultiCrossEntropy`", cat.trained("labels", "MultiCrossEntropy"), WRONG),
        ("`RMSE`", cat.trained("log wage", "RMSE")),
        ("`MAE`", cat.trained("wage", "MAE")),
        ("`MAPE`", cat.trained("wage", "MAPE")),
        ("`Quantile`", cat.trained("wage", "Quantile:alpha=0.8")),
        ("`Huber`", cat.trained("wage", "Huber:delta=1")),
        ("`Expectile`", cat.trained("wage", "Expectile:alpha=0.3")),
        ("`LogCosh`", cat.trained("wage", "LogCosh")),
        ("`Lq`", cat.trained("wage", "Lq:q=3")),
        ("`Poisson`", cat.trained("whole dollars", "Poisson"), WRONG),
        ("`Tweedie`", cat.trained("wage", "Tweedie:variance_power=1.5"), WRONG),
        ("`MultiRMSE`", cat.trained("several", "MultiRMSE")),
        ("`MultiQuantile`", cat.trained("wage", "MultiQuantile:alpha=0.1,0.9")),
        ("`YetiRank`", cat.ranked("YetiRank")),
        ("`PairLogit`", cat.ranked("PairLogit")),
        ("`QueryRMSE`", cat.ranked("QueryRMSE")),
        ("`QuerySoftMax`", cat.ranked("QuerySoftMax")),
        ("`LambdaMart`", cat.ranked("LambdaMart")),
        ("`grow_policy=Depthwise`", cat.trained("well paid", "Logloss", grow_policy="Depthwise", min_data_in_leaf=20)),
        ("`grow_policy=Lossguide`", cat.trained("log wage", "RMSE", grow_policy="Lossguide")),
        ("`grow_policy=Lossguide` of several classes", cat.trained("third", "MultiClass", grow_policy="Lossguide")),
        ("`nan_mode=Min`", cat.trained("log wage", "RMSE", nan_mode="Min")),
        ("`nan_mode=Max`", cat.trained("log wage", "RMSE", nan_mode="Max")),
        (
            "`nan_mode=Max`, `grow_policy=Depthwise`",
            cat.trained("log wage", "RMSE", nan_mode="Max", grow_policy="Depthwise"),
        ),
        ("`nan_mode=Forbidden`", cat.no_gaps),
        ("`monotone_constraints`", cat.monotone, BRUTE),
        ("`boosting_type=Ordered`", cat.trained("log wage", "RMSE", boosting_type="Ordered")),
        ("`model_shrink_rate`", cat.trained("log wage", "RMSE", model_shrink_rate=0.1)),
        ("weights of classes and rows, row sampling", cat.weighted),
        ("early stopping", cat.stopped_early),
        ("`CatBoostClassifier` with names for classes", cat.classifier),
        ("names of features", cat.named),
        (".cbm file", cat.saved(".cbm")),
        (".json file", cat.saved(".json")),
        ("custom objective, `raw_score`", cat.custom(raw_score=True)),
        ("`RMSEWithUncertainty`, `raw_score`", cat.raw_score, BRUTE),
        (
            "`RMSEWithUncertainty`",
            cat.trained("wage", "RMSEWithUncertainty"),
            "of its two outputs CatBoost explains one",
            "RMSEWithUncertainty is not supported: of its two outputs.*raw_score",
        ),
        ("custom objective", cat.custom(), "nothing says what its margins mean", "custom objective mean.*raw_score"),
        (
            "categorical features",
            cat.categorical,
            _STATISTICS,
            "'region' is a categorical feature.*encode it as numbers",
        ),
        ("text features", cat.text, _STATISTICS, "'region' is a text feature.*encode it as numbers"),
        (
            "`set_probability_threshold`",
            cat.other_threshold,
            "reset it to 0.5, and give `threshold` when packing",
            r"threshold is 0\.3: call set_probability_threshold\(0\.5\)",
        ),
        (
            "loaded from ONNX",
            cat.through_onnx,
            "it lacks the covers; pack its .cbm file",
            r"lacks the weights of its leaves.*its \.cbm file",
        ),
    )
)
