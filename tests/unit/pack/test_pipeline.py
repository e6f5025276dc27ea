"""Beside the matrix: rows that are not the pipeline's own, and what the bundle says of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from xai_service.errors import BundleMismatch, PackRefused
from xai_service.model.bundle import Bundle
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import pack
from xai_service.pack.columnwise import follow

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["when", "city", "size", "grade"]


@pytest.fixture(scope="module", name="people")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "when": pd.Timestamp("2030-01-01"),
            "city": rng.choice(["Bern", "Oslo", "Rome"], 300).astype(object),
            "size": rng.normal(size=300),
            "grade": rng.integers(1, 4, 300),
        }
    )


def fitted(people: pd.DataFrame, parts: Any, **options: Any) -> Pipeline:
    target = people["size"] + people["grade"] > people["city"].map({"Bern": 1, "Oslo": 2, "Rome": 3})
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1)
    return Pipeline([("columns", ColumnTransformer(parts, **options)), ("model", model)]).fit(people, target)


@pytest.fixture(scope="module")
def pipeline(people: pd.DataFrame) -> Pipeline:
    parts = [
        ("city", OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["city"]),
        ("grade", OneHotEncoder(sparse_output=False), ["grade"]),
        ("size", StandardScaler(), ["size"]),
    ]
    return fitted(people, parts)


def test_what_the_bundle_says(pipeline: Pipeline, people: pd.DataFrame, tmp_path: Path) -> None:
    """In the pipeline's order of raw columns, without the one that it does not use, whatever that holds."""
    manifest = Bundle.load(
        pack(pipeline, people.assign(more=1)[["more", *reversed(NAMES)]], name="m", out=tmp_path)
    ).manifest
    city, size, grade = manifest.features
    assert (city.name, city.kind, city.categories, city.allows_unknown) == (
        "city",
        "string",
        ("Bern", "Oslo", "Rome"),
        True,
    )
    assert (size.name, size.kind, size.categories, size.allows_unknown) == ("size", "numeric", (), True)
    assert (grade.name, grade.kind, grade.categories, grade.allows_unknown) == (
        "grade",
        "numeric",
        ("1", "2", "3"),
        False,
    )
    assert (grade.minimum, grade.maximum) == (1, 3)
    assert manifest.made_by.keys() >= {"xgboost", "scikit-learn"}
    assert not any(feature.allows_missing for feature in manifest.features)


def test_missing_where_an_encoder_refuses_it_stays_refused(
    pipeline: Pipeline, people: pd.DataFrame, tmp_path: Path
) -> None:
    manifest = Bundle.load(pack(pipeline, people, name="m", out=tmp_path, missing="all")).manifest
    assert {feature.name: feature.allows_missing for feature in manifest.features} == {
        "city": True,
        "size": True,
        "grade": False,
    }


def test_categories_edited_after_packing(pipeline: Pipeline, people: pd.DataFrame, tmp_path: Path) -> None:
    """Exchanged in the manifest, one person's city would be served as another's."""
    folder = pack(pipeline, people, name="m", out=tmp_path)
    file = folder / "manifest.json"
    text = file.read_text()
    for change, field in (
        (('"Bern",\n        "Oslo"', '"Oslo",\n        "Bern"'), "categories"),
        (('"kind": "string"', '"kind": "categorical"'), "categorical"),
    ):
        assert change[0] in text
        file.write_text(text.replace(*change))
        with pytest.raises(BundleMismatch, match=rf"{field}\[0\] is .* the model file says"):
            ModelSnapshot.load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda X: X.to_numpy(), "the pipeline was fitted on a DataFrame, and X is ndarray: pass a DataFrame"),
        (lambda X: X.drop(columns="size"), "X has no column 'size', which the pipeline was fitted on"),
        (lambda X: X.iloc[:0], "X has no rows"),
        (lambda X: X.assign(city=1.5), "column 'city' holds no string in X, and is encoded by strings"),
        (
            lambda X: X.assign(city=[3, *X["city"][1:]]),
            "column 'city' holds 3, int: raw columns are numbers or strings",
        ),
        (lambda X: X.assign(size="big"), "column 'size' holds strings and reaches the model without an encoder"),
        (lambda X: X.assign(size=np.inf), r"X\[0, 'size'\] is inf, infinite as float32"),
        (lambda X: X.assign(grade=9), "the pipeline's preprocessing refuses X: Found unknown categories"),
        (lambda X: pd.concat([X, X], axis=1), "X has more than one column 'when'"),
    ],
)
def test_rows_that_are_not_the_pipelines(
    change: Any, says: str, pipeline: Pipeline, people: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(PackRefused, match=says):
        pack(pipeline, change(people), name="m", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_not_fitted(people: pd.DataFrame, tmp_path: Path) -> None:
    steps = [("scale", StandardScaler()), ("model", xgboost.XGBClassifier())]
    with pytest.raises(PackRefused, match="not fitted"):
        pack(Pipeline(steps), people, name="m", out=tmp_path)


def test_a_category_that_is_no_float32(people: pd.DataFrame, tmp_path: Path) -> None:
    people = people.assign(grade=people["grade"] / 10)
    pipeline = fitted(people, [("grade", OrdinalEncoder(), ["grade"])])
    with pytest.raises(PackRefused, match=r"'grade' is encoded by its values, and 0\.1 is none in float32"):
        pack(pipeline, people, name="m", out=tmp_path)


def test_weights_that_turn_columns_around(people: pd.DataFrame, tmp_path: Path) -> None:
    parts = [("size", StandardScaler(), ["size"])]
    doubled = fitted(people, parts, transformer_weights={"size": 2.0})
    assert pack(doubled, people, name="m", out=tmp_path)
    with pytest.raises(PackRefused, match=r"step 'columns': transformer_weights \{'size': -1\.0\} are not above 0"):
        pack(fitted(people, parts, transformer_weights={"size": -1.0}), people, name="m", out=tmp_path)


@pytest.mark.parametrize(
    ("chosen", "places"),
    [
        (["grade", "when"], [3, 0]),
        ([-1, 0], [3, 0]),
        (slice(1, 3), [1, 2]),
        (slice("city", "grade"), [1, 2, 3]),
        (slice(None, "city"), [0, 1]),
        ([True, False, False, True], [0, 3]),
        (np.array([False, True, False, False]), [1]),
        ([], []),
    ],
)
def test_ways_to_choose_columns(chosen: Any, places: list[int], people: pd.DataFrame) -> None:
    step = ColumnTransformer([("some", "passthrough", chosen)]).fit(people)
    assert [column.raw for column in follow([("columns", step)], NAMES)] == places


def test_columns_of_a_step_are_told_by_place(people: pd.DataFrame) -> None:
    inner = ColumnTransformer([("b", "passthrough", [1]), ("a", StandardScaler(), [0])])
    step = make_pipeline(ColumnTransformer([("two", "passthrough", ["size", "grade"])]), inner).fit(people)
    found = follow(step.steps, NAMES)
    assert [(column.raw, column.how) for column in found] == [(3, "same"), (2, "rising")]


def test_the_places_of_categories_are_the_pipelines_own(
    pipeline: Pipeline, people: pd.DataFrame, tmp_path: Path
) -> None:
    """Other rows, with cities that no step knows, some or none of those it does, make the same categories."""
    told = []
    for cities in (people["city"], "Aarau", "Oslo", None):
        X = people.assign(city=cities)
        if cities is None:
            X["city"] = X["city"].astype(object)
        told.append(Bundle.load(pack(pipeline, X, name="m", out=tmp_path)).manifest.features[0].categories)
    assert told == [("Bern", "Oslo", "Rome")] * 4
