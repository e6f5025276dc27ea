"""Manifests that cards are made of: one with everything stated, one with nothing, one made to do harm."""

from __future__ import annotations

import dataclasses

import pytest

from xai_service.model.manifest import Feature, FileDigest, Manifest, Parity
from xai_service.model.provenance import (
    Background,
    Code,
    FeatureFacts,
    Metric,
    Provenance,
    RowsDigest,
    TrainingData,
)

# Markup for HTML and Markdown, quotes, and a mark that turns the text around.
HOSTILE = '<script>alert(\'1\')</script>" onload="x" | `a` [b](javascript:c) **d** \u202e&lt;'
PROVENANCE = Provenance(
    owner="Credit Risk, Example Bank",
    contact="risk@bank.example",
    description="Estimates defaults.\n\nUsed since 2029.",
    intended_use="Mortgages for people.",
    out_of_scope_use="Loans to businesses.",
    licence="Proprietary",
    preprocessing="None.",
    training_data=TrainingData("Applications", "2029", "Exported in 2030.", None, "cd" * 32, True),
    packed_rows=RowsDigest("sha256-float32le", "ef" * 32, 12345),
    background=Background(RowsDigest("sha256-float32le", "12" * 32, 100), "At random."),
    code=Code("0123abcd", True, "git"),
    hyper_parameters={"learning_rate": 0.02, "max_depth": 6, "fast": True, "seed": None},
    metrics=(Metric("AUC", 0.8125, "held out", "women"), Metric("Brier", 0.125)),
    features={
        "income": FeatureFacts("Gross income", "USD", 1, True, False, False, "It is high.", "It is low."),
        "age": FeatureFacts(monotonicity=-1, is_monotonicity_proven=False, protected=True, immutable=True),
        "term": FeatureFacts(monotonicity=0),
    },
)


@pytest.fixture
def stated() -> Manifest:
    """A classifier of which everything is stated."""
    return Manifest(
        schema="xai.bundle/2",
        name="loan",
        version="7",
        created_at="2030-01-31T12:00:00Z",
        task="binary_classification",
        link="logistic",
        link_scale=1.0,
        cover="sum_hessian",
        features=(
            Feature("income", allows_missing=True, minimum=-1.5, maximum=81000.0),
            Feature("age", allows_missing=False, minimum=18.0, maximum=99.0),
            Feature("term", allows_missing=True, minimum=None, maximum=None),
        ),
        classes=("denied", "approved"),
        threshold=0.4,
        favourable_class="approved",
        latency_budget_ms=12.5,
        files={"model.onnx": FileDigest("ab" * 32, 123456)},
        parity=Parity(
            12345, 678, 910, 40, 41, 5e-5, 2.5e-6, 3.5e-7, 0, 96, "xgboost pred_contribs", 1.5e-6, 13933, 4.5e-7
        ),
        made_by={"xgboost": "3.2.0", "onnx": "1.23.2", "xai-service": "0.1.0"},
        provenance=PROVENANCE,
    )


@pytest.fixture
def unstated() -> Manifest:
    """A regression of which nothing is stated."""
    return Manifest(
        schema="xai.bundle/2",
        name="price",
        version="1",
        created_at="2030-01-31T12:00:00Z",
        task="regression",
        link="exponential",
        link_scale=1.0,
        cover="sum_hessian",
        features=(Feature("x", allows_missing=False, minimum=0.0, maximum=1.0),),
        classes=(),
        threshold=None,
        favourable_class=None,
        latency_budget_ms=None,
        files={"model.onnx": FileDigest("ab" * 32, 1)},
        parity=Parity(1, 2, 3, 4, 4, 1e-5, 0.0, 0.0),
        made_by={},
    )


@pytest.fixture
def hostile(stated: Manifest) -> Manifest:
    """Every text that users choose is made to break out of its place, or out of the page."""
    text, long = HOSTILE, "x" * 512
    facts = FeatureFacts(text, text, 1, False, True, None, text, long)
    return dataclasses.replace(
        stated,
        name=text,
        version=text,
        features=tuple(
            Feature(name, allows_missing=True, minimum=-3.4e38, maximum=3.4e38)
            for name in (text, long, "\u05e9\u05dc\u05d5\u05dd", "a\nb")
        ),
        classes=(text, long),
        favourable_class=text,
        made_by={"xgboost": text},
        provenance=Provenance(
            **dict.fromkeys(("owner", "contact", "description", "intended_use", "out_of_scope_use", "licence"), text),
            training_data=TrainingData(text, text, text),
            code=Code(text, None, "statement"),
            hyper_parameters={text: text, long: long},
            metrics=(Metric(text, 1e-300, text, long),),
            features={text: facts, long: facts},
        ),
    )
