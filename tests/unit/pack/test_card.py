"""What users state: as TOML, as mappings, as dataclasses. A misspelt key is never passed over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from xai_service.errors import PackRefused
from xai_service.model.bundle import Bundle
from xai_service.model.provenance import (
    Code,
    FeatureFacts,
    Metric,
    Provenance,
    RowsDigest,
    TrainingData,
)
from xai_service.pack import pack
from xai_service.pack.card import read_statements

if TYPE_CHECKING:
    import xgboost

    from xai_service.types import Float32Array

EXAMPLE = Path(__file__).resolve().parents[3] / "docs/card.toml"
NAMES = ("income", "age")


def test_the_documented_card() -> None:
    """Every key that there is stands in the example, if only in a comment."""
    stated = read_statements(EXAMPLE, None, NAMES)
    assert stated.owner == "Retail Credit Risk, Example Bank"
    assert stated.training_data is not None
    assert stated.training_data.is_packed_rows is True
    assert [metric.slice for metric in stated.metrics] == [None, "self-employed"]
    assert stated.features["income"].monotonicity == 1
    assert stated.features["income"].is_monotonicity_proven is False  # nobody has looked yet
    assert stated.features["age"] == FeatureFacts(unit="years", protected=True, immutable=True)
    computed = {"packed_rows", "background", "is_monotonicity_proven", "source"}
    for shape in (Provenance, TrainingData, Code, Metric, FeatureFacts):
        for field in dataclasses.fields(shape):
            assert field.name in computed or field.name in EXAMPLE.read_text(), field.name


def test_nothing_stated() -> None:
    assert read_statements(None, None, NAMES) == Provenance()
    assert read_statements({}, {}, NAMES) == Provenance()


def test_mappings_and_dataclasses_say_the_same() -> None:
    mapping = {
        "owner": "us",
        "metrics": [{"name": "AUC", "value": np.float32(0.5)}],
        "hyper_parameters": {"depth": np.int64(3)},
        "code": {"revision": "v1"},
        "features": {"age": {"protected": np.True_, "monotonicity": -1}},
    }
    expected = Provenance(
        owner="us",
        metrics=(Metric("AUC", 0.5),),
        hyper_parameters={"depth": 3},
        code=Code("v1", None, "statement"),
        features={"age": FeatureFacts(protected=True, monotonicity=-1, is_monotonicity_proven=False)},
    )
    assert read_statements(mapping, None, NAMES) == expected
    assert read_statements(expected, None, NAMES) == expected


def test_what_was_computed_for_another_bundle_is_not_carried_over() -> None:
    earlier = Provenance(owner="us", packed_rows=RowsDigest("sha256-float32le", "ab" * 32, 3))
    assert read_statements(earlier, None, NAMES) == Provenance(owner="us")


def test_features_may_be_stated_apart() -> None:
    found = read_statements({"features": {"age": {"unit": "years"}}}, {"income": FeatureFacts(unit="USD")}, NAMES)
    assert {name: one.unit for name, one in found.features.items()} == {"age": "years", "income": "USD"}
    with pytest.raises(PackRefused, match="features: 'age' stands in provenance too"):
        read_statements({"features": {"age": {}}}, {"age": {}}, NAMES)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"ower": "us"}, "ower is not a known key; did you mean 'owner'?"),
        ({"license": "MIT"}, "license is not a known key; did you mean 'licence'?"),
        ({"packed_rows": {}}, "packed_rows is not a known key; known are code, contact, "),
        ({"xyz": 1}, "xyz is not a known key; known are code, contact, "),
        ({"training_data": {"rows": 5}}, "training_data.rows is not a known key; "),
        ({"training_data": "loans"}, "training_data: must be an object, is a string"),
        ({"code": {"dirty": True}}, "code.dirty is not a known key; did you mean 'is_dirty'?"),
        ({"code": {"is_dirty": True}}, "code.revision: is missing"),
        ({"metrics": {"AUC": 0.8}}, "metrics: must be a list, is an object"),
        ({"metrics": [{"name": "AUC"}]}, "metrics[0].value: is missing"),
        ({"metrics": [{"name": "AUC", "value": 1, "data": "x"}]}, "metrics[0].data is not a known key; did you mean "),
        ({"metrics": [{"name": "AUC", "value": float("nan")}]}, "metrics[0].value: must be a finite number"),
        ({"features": {"aeg": {}}}, "features.aeg: is not a feature of the model"),
        (
            {"features": {"age": {"monotone": 1}}},
            "features.age.monotone is not a known key; did you mean 'monotonicity",
        ),
        ({"features": {"age": {"is_monotonicity_proven": True}}}, "features.age.is_monotonicity_proven is not a known"),
        ({"features": []}, "features: must be an object, is a list"),
        ({"features": {"age": {"monotonicity": "rising"}}}, "features.age.monotonicity: must be 1"),
        ({"owner": 5}, "owner: must be a string, is an integer"),
        (["owner"], "must map keys of a card to what is stated, is list"),
        ({1: "x"}, "1 is not a known key"),
        ({"features": {1: {}, "x": {}}}, "features.1: is not a feature of the model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_refusal_names_the_key(stated: Any, message: str) -> None:
    with pytest.raises(PackRefused) as error:
        read_statements(stated, None, NAMES)
    assert str(error.value).startswith(f"provenance: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('owner = "us"\nower = 1', "ower is not a known key; did you mean 'owner'?"),
        ("owner = us", "not TOML in UTF-8: "),
        ("owner = 'a'\nowner = 'b'", "not TOML in UTF-8: "),
        ("[training_data]\nperiod = 2029-01-01", "training_data.period: must be a string, is a date"),
        ("a = " + "[" * 5000, "not TOML in UTF-8: "),
    ],
    ids=["unknown", "no TOML", "twice", "date", "deep"],
)
def test_a_wrong_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(PackRefused) as error:
        read_statements(path, None, NAMES)
    assert str(error.value).startswith(f"{path}: {message}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PackRefused, match="cannot be read: No such file"):
        read_statements(tmp_path / "none.toml", None, NAMES)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(PackRefused, match="not TOML in UTF-8"):
        read_statements(str(binary), None, NAMES)
    binary.write_bytes(b"#" * ((4 << 20) + 1))
    with pytest.raises(PackRefused, match="is larger than"):
        read_statements(binary, None, NAMES)


def test_statements_stand_in_the_bundle(X: Float32Array, booster: xgboost.Booster, tmp_path: Path) -> None:
    stated = {"owner": "us", "training_data": {"name": "loans"}, "hyper_parameters": {"z": 1, "a": 2}}
    path = pack(booster, X, name="m", out=tmp_path, provenance=stated, features={"f0": {"immutable": True}})
    manifest = Bundle.load(path).manifest
    assert (path / "manifest.json").read_bytes() == manifest.to_json()
    found = manifest.provenance
    assert list(found.hyper_parameters) == sorted(found.hyper_parameters)
    assert found.owner == "us"
    assert found.training_data == TrainingData("loans")
    assert found.features == {"f0": FeatureFacts(immutable=True)}
    with pytest.raises(PackRefused, match=r"provenance: features\.income: is not a feature"):
        pack(booster, X, name="m", out=tmp_path, provenance={"features": {"income": {}}})
    with pytest.raises(PackRefused, match=r"card\.toml: features\.age: is not a feature of the model"):
        pack(booster, X, name="m", out=tmp_path, provenance=EXAMPLE)
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]
