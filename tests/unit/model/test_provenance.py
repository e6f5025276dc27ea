"""Provenance survives the trip through JSON, and whatever else the JSON says is refused with its key."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_service.errors import InvalidModel
from xai_service.model import provenance as facts
from xai_service.model.provenance import (
    Background,
    Code,
    FeatureFacts,
    Metric,
    Provenance,
    RowsDigest,
    TrainingData,
)

NAMES = ("income", "é")
ROWS = RowsDigest("sha256-float32le", "ab" * 32, 1500)
FULL = Provenance(
    owner="Credit Risk",
    contact="risk@bank.example",
    description="One line.\n\nAnother\u00a0paragraph.",
    intended_use="Mortgages.",
    out_of_scope_use="Businesses.",
    licence="MIT",
    preprocessing="None.",
    training_data=TrainingData("loans", "2029", "Exported.", 1500, "cd" * 32, True),
    packed_rows=ROWS,
    background=Background(ROWS, "At random."),
    code=Code("0123abc", None, "git"),
    hyper_parameters={"eta": 0.1, "max_depth": 6, "seed": 2**63, "dart": True, "callback": None, "objective": "x"},
    metrics=(Metric("AUC", 0.8, "held out", "women"), Metric("AUC", 0.8)),
    features={
        "income": FeatureFacts("Gross", "USD", 1, True, False, True, "It is high.", "It is low."),
        "é": FeatureFacts(monotonicity=0),
    },
)

lines = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
counts = st.integers(0, 2**53 - 1)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
rows = st.builds(RowsDigest, st.just("sha256-float32le"), digests, counts)
numbers = st.floats(allow_nan=False, allow_infinity=False)
directions = st.sampled_from([(None, None), (0, None), (1, True), (1, False), (-1, True)])
features = st.builds(
    lambda text, direction, flag, reason: FeatureFacts(text, None, *direction, flag, None, reason, text),
    st.none() | lines,
    directions,
    st.none() | st.booleans(),
    st.none() | lines,
)
provenances = st.builds(
    Provenance,
    owner=st.none() | lines,
    intended_use=st.none() | lines,
    training_data=st.none() | st.builds(TrainingData, st.none() | lines, row_count=st.none() | counts),
    packed_rows=st.none() | rows,
    background=st.none() | st.builds(Background, rows, st.none() | lines),
    code=st.none() | st.builds(Code, lines, st.none() | st.booleans(), st.sampled_from(["git", "statement"])),
    hyper_parameters=st.dictionaries(
        lines, st.none() | st.booleans() | numbers | st.integers(-9, 9) | lines, max_size=4
    ),
    metrics=st.lists(st.builds(Metric, lines, numbers, st.none() | lines), max_size=3).map(tuple),
    features=st.dictionaries(st.sampled_from(NAMES), features, max_size=2),
)


def document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(dataclasses.asdict(FULL))), **changes}


def parse(value: Any) -> Provenance:
    return facts.parse(json.loads(json.dumps(value)), "provenance", NAMES)


def refusal(value: Any) -> str:
    with pytest.raises(InvalidModel) as error:
        parse(value)
    return str(error.value)


@settings(max_examples=50)
@given(provenances)
def test_round_trip(provenance: Provenance) -> None:
    assert parse(dataclasses.asdict(provenance)) == provenance


def test_round_trip_of_everything() -> None:
    assert parse(document()) == FULL
    assert parse(document()).hyper_parameters["seed"] == 2**63
    assert all(value is not None for value in dataclasses.asdict(FULL).values())


def test_what_is_not_stated_is_none() -> None:
    empty = parse(dataclasses.asdict(Provenance()))
    assert empty == Provenance()
    assert empty.facts_of("income") == FeatureFacts()
    assert FULL.facts_of("income").unit == "USD"


def test_order_does_not_matter() -> None:
    backwards = dataclasses.replace(
        FULL,
        hyper_parameters=dict(reversed(FULL.hyper_parameters.items())),
        features=dict(reversed(FULL.features.items())),
    )
    assert json.dumps(dataclasses.asdict(backwards.ordered())) == json.dumps(dataclasses.asdict(FULL.ordered()))


# Each object of the document that has fixed keys: its path, and the way to it.
PLACES: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    (".training_data", ("training_data",)),
    (".packed_rows", ("packed_rows",)),
    (".background", ("background",)),
    (".background.rows", ("background", "rows")),
    (".code", ("code",)),
    (".metrics[1]", ("metrics", 1)),
    (".features.income", ("features", "income")),
]


@pytest.mark.parametrize(("path", "way"), PLACES, ids=[path for path, _ in PLACES])
def test_keys_are_those_that_are_known(path: str, way: tuple[Any, ...]) -> None:
    def place(root: dict[str, Any]) -> dict[str, Any]:
        for step in way:
            root = root[step]
        return root

    for key in place(document()):
        less = document()
        del place(less)[key]
        assert refusal(less) == f"manifest.json: provenance{path}.{key}: is missing"
        # No key takes a list of lists, so that it stands for any wrong type.
        wrong = document()
        place(wrong)[key] = [[]]
        assert refusal(wrong).startswith(f"manifest.json: provenance{path}.{key}")
    more = document()
    place(more)["extra"] = 1
    assert refusal(more) == f"manifest.json: provenance{path}.extra: is not a known key"


FACTS = document()["features"]["income"]
METRIC = {"name": "a", "value": 1, "dataset": None, "slice": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owner": ""}, "owner: must have 1 to 512"),
        ({"owner": "a\nb"}, "owner: must be printable"),
        ({"owner": "a\u202eb"}, "owner: must be printable"),
        ({"description": " \n "}, "description: is blank"),
        ({"description": "a\u2067b"}, 'description: holds "\\u2067"'),
        ({"description": "a\tb"}, 'description: holds "\\t"'),
        ({"description": "a" * 8193}, "description: must have 1 to 8192"),
        ({"training_data": {**document()["training_data"], "row_count": -1}}, "training_data.row_count: "),
        ({"training_data": {**document()["training_data"], "sha256": "AB" * 32}}, "training_data.sha256: "),
        ({"packed_rows": {**document()["packed_rows"], "method": "md5"}}, "packed_rows.method: must be "),
        ({"code": {**document()["code"], "source": "rumour"}}, 'code.source: must be "git" or "statement"'),
        ({"code": {**document()["code"], "is_dirty": 1}}, "code.is_dirty: must be true or false"),
        ({"hyper_parameters": {"a": {}}}, "hyper_parameters.a: must be a number, is an object"),
        ({"hyper_parameters": {"a": 2**64}}, None),  # as a float
        ({"hyper_parameters": {"a": 10**400}}, "hyper_parameters.a: must be a finite number"),
        ({"hyper_parameters": {"a b": []}}, 'hyper_parameters."a b": must be a number, is a list'),
        ({"hyper_parameters": {"": 1}}, "hyper_parameters: must have 1 to 512"),
        ({"hyper_parameters": {f"p{i}": 1 for i in range(513)}}, "hyper_parameters: has 513 entries"),
        ({"metrics": [METRIC] * 513}, "metrics: has 513 entries"),
        ({"metrics": [{**METRIC, "value": "high"}]}, "metrics[0].value: must be a number"),
        ({"features": {"age": FACTS}}, "features.age: is not a feature of the model"),
        ({"features": {"income": {**FACTS, "monotonicity": 2}}}, "features.income.monotonicity: must be 1"),
        ({"features": {"income": {**FACTS, "monotonicity": True}}}, "features.income.monotonicity: must be 1"),
        ({"features": {"income": {**FACTS, "monotonicity": 0}}}, "features.income.is_monotonicity_proven: "),
        ({"features": {"income": {**FACTS, "is_monotonicity_proven": None}}}, "features.income.is_monotonicity_proven"),
        ({"features": {"income": {**FACTS, "protected": "yes"}}}, "features.income.protected: must be true or"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_rule_names_its_key(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert parse(document(**changes)).hyper_parameters == {"a": 2.0**64}
    else:
        assert refusal(document(**changes)).startswith(f"manifest.json: provenance.{message}")
