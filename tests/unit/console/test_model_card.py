"""A card says what the manifest says, and "not stated" where it says nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from xai_service.console.model_card import ModelCard, Signature, model_card
from xai_service.model.manifest import Feature

if TYPE_CHECKING:
    from xai_service.model.manifest import Manifest

SHA = "98" * 32


def said(card: ModelCard, label: str) -> str | None:
    """The value of the one fact with this label."""
    (value,) = [fact.value for section in card.sections for fact in section.facts if fact.label == label]
    return value


def table(card: ModelCard, caption: str) -> list[dict[str, str]]:
    (one,) = [one for section in card.sections for one in section.tables if one.caption == caption]
    return [dict(zip(one.columns, row, strict=True)) for row in one.rows]


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("Owner", "Credit Risk, Example Bank"),
        ("Contact", "risk@bank.example"),
        ("Intended use", "Mortgages for people."),
        ("Not to be used for", "Loans to businesses."),
        ("Licence", "Proprietary"),
        ("Task", "Binary classification: denied or approved"),
        ("Margin", "raw score; the probability is the logistic function of the margin"),
        ("Decision rule", "approved where its probability is greater than 0.4, else denied"),
        ("Favourable outcome", "approved"),
        ("Latency budget", "12.5 ms for each request, at most"),
        ("Protected attributes", "age; not stated for 1 feature"),
        ("Training data", "Applications"),
        ("Period", "2029"),
        ("Rows trained on", "12,345"),
        ("Lineage", "Exported in 2030."),
        ("SHA-256 of the training data", "cd" * 32),
        ("Preprocessing", "None."),
        ("Rows given when packing", "12,345 rows; they are the training data"),
        ("Digest of these rows", "ef" * 32),
        ("Background", "100 rows"),
        ("Background drawn", "At random."),
        ("Digest of the background", "12" * 32),
        ("Greatest difference of margins", "2.5e-06"),
        ("Allowed", "5e-05"),
        ("Greatest difference of outputs", "3.5e-07"),
        ("Code revision", "0123abcd"),
        ("Uncommitted changes", "yes"),
        ("Model", "loan, version 7"),
        ("Packed", "2030-01-31T12:00:00Z"),
        ("SHA-256 of manifest.json", SHA),
        ("SHA-256 of model.onnx", "ab" * 32),
        ("Size of model.onnx", "123,456 bytes"),
        ("Format", "xai.bundle/2"),
    ],
)
def test_what_is_stated(label: str, value: str, stated: Manifest) -> None:
    assert said(model_card(stated, SHA), label) == value


def test_what_is_not_stated_has_no_value(unstated: Manifest) -> None:
    card = model_card(unstated, SHA)
    for label in ("Owner", "Contact", "Intended use", "Not to be used for", "Licence", "Latency budget"):
        assert said(card, label) is None
    for label in ("Training data", "Period", "Rows trained on", "Lineage", "Preprocessing", "Rows given when packing"):
        assert said(card, label) is None
    for label in ("Metrics", "Code revision", "Hyper-parameters", "Protected attributes"):
        assert said(card, label) is None
    assert card.description is None
    assert said(card, "Margin") == "raw score; the prediction is the exponential of the margin"
    (feature,) = table(card, "Columns, in order")
    assert feature["Protected"] == feature["Immutable"] == feature["Monotonicity"] == feature["Description"] == ""
    labels = {fact.label for section in card.sections for fact in section.facts}
    assert not {"Favourable outcome", "Decision rule", "Digest of these rows", "Uncommitted changes"} & labels


def test_features(stated: Manifest) -> None:
    income, age, term = table(model_card(stated, SHA), "Columns, in order")
    assert income == {
        "Feature": "income",
        "Description": "Gross income (USD)",
        "Type": "numeric",
        "Range": "\N{MINUS SIGN}1.5 to 81000",
        "Missing": "may be",
        "Monotonicity": "↑ rising, proven",
        "Protected": "no",
        "Immutable": "no",
    }
    assert (age["Missing"], age["Monotonicity"], age["Protected"]) == ("never", "↓ falling, not proven", "yes")
    assert (term["Range"], term["Monotonicity"], term["Protected"]) == ("all missing", "none", "")
    (reason,) = table(model_card(stated, SHA), "Reasons given in notices")
    assert reason == {"Feature": "income", "In favour": "It is high.", "Against": "It is low."}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((True, True, True), "income, age and term"),
        ((False, False, False), "none"),
        ((False, False, None), "none stated; not stated for 1 feature"),
        ((True, None, None), "income; not stated for 2 features"),
        ((None, None, None), None),
    ],
)
def test_protected_attributes(flags: tuple[bool | None, ...], text: str | None, stated: Manifest) -> None:
    facts = {
        feature.name: dataclasses.replace(stated.provenance.facts_of(feature.name), protected=flag)
        for feature, flag in zip(stated.features, flags, strict=True)
    }
    manifest = dataclasses.replace(stated, provenance=dataclasses.replace(stated.provenance, features=facts))
    assert said(model_card(manifest, SHA), "Protected attributes") == text


def test_tables(stated: Manifest) -> None:
    card = model_card(stated, SHA)
    assert table(card, "Metrics") == [
        {"Metric": "AUC", "Value": "0.8125", "Data set": "held out", "Slice": "women"},
        {"Metric": "Brier", "Value": "0.125", "Data set": "", "Slice": ""},
    ]
    settings = {row["Name"]: row["Value"] for row in table(card, "Hyper-parameters")}
    assert settings == {"learning_rate": "0.02", "max_depth": "6", "fast": "yes", "seed": "none"}
    assert [row["Library"] for row in table(card, "Packed by")] == ["onnx", "xai-service", "xgboost"]


def test_the_proof_is_in_plain_words(stated: Manifest, unstated: Manifest) -> None:
    text, compared = next(section.text for section in model_card(stated, SHA).sections if section.key == "proof")
    assert text == (
        "The file that is served answers as XGBoost 3.2.0 does. Both were asked for 12,345 rows given when packing, "
        "678 rows with missing values and 910 rows on or just beside the thresholds of 40 of the 41 splits "
        "in its trees."
    )
    assert compared == (
        "Its attributions were compared with those of xgboost pred_contribs on 96 rows, and added up to the margin on "
        "13,933 rows."
    )
    text, compared = next(section.text for section in model_card(unstated, SHA).sections if section.key == "proof")
    assert compared.startswith("Its attributions were compared with no others")
    assert "answers as the library that trained it does" in text
    assert "1 row given" in text
    assert "all 4 splits" in text


def test_who_says_so(stated: Manifest) -> None:
    assert said(model_card(stated, SHA), "Signature") == "not checked"
    signed = model_card(stated, SHA, Signature("verified", "by Example Bank", "ab12"))
    assert said(signed, "Signature") == "by Example Bank"
    assert said(signed, "Key") == "ab12"
    assert dict(signed.glance)["Signature"] == "by Example Bank"


def test_sections_have_keys_of_their_own(stated: Manifest) -> None:
    keys = [section.key for section in model_card(stated, SHA).sections]
    assert len(set(keys)) == len(keys)
    assert all(key.isalpha() for key in keys)


def test_a_pipeline_is_told_with_its_model_and_its_strings(stated: Manifest) -> None:
    features = (
        Feature("city", True, None, None, "string", ("Bern", "Oslo"), allows_unknown=True),
        Feature("age", False, 18.0, 99.0),
        Feature("term", False, 1.0, 2.0, "numeric", ("1", "2"), allows_unknown=False),
    )
    provenance = dataclasses.replace(stated.provenance, features={})
    made_by = {"xgboost": "3.2.0", "scikit-learn": "1.9.1"}
    manifest = dataclasses.replace(stated, features=features, provenance=provenance, made_by=made_by)
    text = repr(model_card(manifest, "ab" * 32))
    assert "answers as XGBoost 3.2.0 does behind the steps of a scikit-learn 1.9.1 pipeline. Both were asked" in text
    assert "'string', '2 known strings, and others'" in text
    assert "'numeric', '1 to 2, of 2 known values'" in text
