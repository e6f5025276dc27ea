"""A manifest survives the trip through JSON, and whatever else the JSON says is refused with its key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_service.errors import InvalidModel
from xai_service.model.manifest import MAX_MANIFEST_BYTES, Feature, FileDigest, Manifest, Parity, is_name

CLASSIFIER = Manifest(
    schema="xai.bundle/2",
    name="loans",
    version="3",
    created_at="2030-01-31T12:00:00Z",
    task="binary_classification",
    link="logistic",
    link_scale=1.0,
    cover="sum_hessian",
    features=(Feature("income", allows_missing=True, minimum=-1.5, maximum=2.0), Feature("é", False, None, None)),
    classes=("refused", "approved"),
    threshold=0.4,
    favourable_class="approved",
    latency_budget_ms=12.5,
    files={"model.onnx": FileDigest("ab" * 32, 1234)},
    parity=Parity(10, 20, 30, 10, 11, 1e-5, 2e-6, 3e-7, 5, 6, "xgboost pred_contribs", 1e-7, 60, 2e-7),
    made_by={"xgboost": "3.2.0", "onnx": "1.23.2"},
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.floats(0, 1e300)
counts = st.integers(0, 2**53 - 1)
ranges = st.tuples(numbers, numbers).map(sorted) | st.just((None, None))
features = st.lists(
    st.builds(
        lambda name, missing, bounds, kind: Feature(name, missing, *bounds, *kind),
        texts,
        st.booleans(),
        ranges,
        st.just(("numeric", ()))
        | st.just(("numeric", ("1", "-2.5"), False))
        | st.lists(texts, max_size=3).map(lambda names: ("categorical", tuple(names)))
        | st.tuples(
            st.just("string"), st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True), st.booleans()
        ).map(lambda kind: (kind[0], tuple(kind[1]), kind[2])),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda feature: feature.name,
).map(tuple)
shared = {
    "schema": st.just("xai.bundle/2"),
    "name": names,
    "version": names,
    "created_at": st.datetimes().map(lambda time: time.isoformat() + "Z"),
    "cover": st.sampled_from(["sum_hessian", "data_count", "weighted_count"]),
    "features": features,
    "latency_budget_ms": st.none() | st.floats(1e-9, 1e9),
    "files": st.builds(FileDigest, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(0, 1 << 30)).map(
        lambda digest: {"model.onnx": digest}
    ),
    "parity": st.builds(
        Parity, *[counts] * 5, *[sizes] * 3, *[counts] * 2, st.none() | texts, sizes, counts, sizes
    ).filter(lambda one: one.splits_tested <= one.splits_total and one.max_margin_difference <= one.tolerance),
    "made_by": st.dictionaries(names, texts, max_size=4),
}
classifiers = st.lists(texts, min_size=2, max_size=2, unique=True).flatmap(
    lambda classes: st.builds(
        Manifest,
        **shared,
        task=st.just("binary_classification"),
        link=st.just("logistic"),
        link_scale=st.floats(0.01, 100),
        classes=st.just(tuple(classes)),
        threshold=st.floats(0.001, 0.999),
        favourable_class=st.sampled_from([*classes, None]),
    )
)
of_many_classes = st.lists(texts, min_size=2, max_size=4, unique=True).flatmap(
    lambda classes: st.builds(
        Manifest,
        **shared,
        task=st.just("multiclass_classification"),
        link=st.sampled_from(["softmax", "identity"]),
        link_scale=st.just(1.0),
        classes=st.just(tuple(classes)),
        threshold=st.none(),
        favourable_class=st.sampled_from([*classes, None]),
    )
)
regressions = st.builds(
    Manifest,
    **shared,
    task=st.just("regression"),
    link=st.sampled_from(["identity", "exponential"]),
    link_scale=st.just(1.0),
    classes=st.just(()),
    threshold=st.none(),
    favourable_class=st.none(),
)


def document(**changes: Any) -> dict[str, Any]:
    return {**json.loads(CLASSIFIER.to_json()), **changes}


def parse(value: Any) -> Manifest:
    return Manifest.parse(json.dumps(value).encode())


@settings(max_examples=50)
@given(classifiers | of_many_classes | regressions)
def test_round_trip(manifest: Manifest) -> None:
    data = manifest.to_json()
    assert Manifest.parse(data) == manifest
    assert Manifest.parse(data).to_json() == data


def test_bytes_do_not_depend_on_the_order_of_mappings() -> None:
    backwards = dict(sorted(CLASSIFIER.made_by.items(), reverse=True))
    assert Manifest(**{**fields(CLASSIFIER), "made_by": backwards}).to_json() == CLASSIFIER.to_json()


def fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


@pytest.mark.parametrize("key", sorted(document()))
def test_each_key_is_needed(key: str) -> None:
    value = document()
    del value[key]
    with pytest.raises(InvalidModel, match=f"{key}: is missing"):
        parse(value)


@pytest.mark.parametrize("wrong", [None, True, 7, 1.5, "", "other", [], [1], {}, {"a": 1}], ids=repr)
@pytest.mark.parametrize("key", sorted(document()))
def test_each_key_has_its_type(key: str, wrong: Any) -> None:
    fitting: dict[str, list[Any]] = {
        "name": ["other"],
        "version": ["other"],
        "favourable_class": [None],
        "latency_budget_ms": [None, 7, 1.5],
        "link_scale": [7, 1.5],
        "made_by": [{}],
    }
    if any(wrong == value and type(wrong) is type(value) for value in fitting.get(key, [])):
        parse(document(**{key: wrong}))
        return
    with pytest.raises(InvalidModel, match=rf"manifest\.json: {key}"):
        parse(document(**{key: wrong}))


FEATURE: dict[str, Any] = {
    "name": "a",
    "allows_missing": True,
    "minimum": 0,
    "maximum": 1,
    "kind": "numeric",
    "categories": [],
}
DIGEST = {"sha256": "ab" * 32, "size_bytes": 1}
PARITY = document()["parity"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "extra: is not a known key"),
        ({"a b": 1}, '"a b": is not a known key'),
        (
            {"schema": "xai.bundle/1"},
            'schema: must be "xai.bundle/2", is "xai.bundle/1": pack the model again',
        ),
        ({"name": "../up"}, "name: "),
        ({"version": "a" * 129}, "version: "),
        ({"version": "1\n"}, "version: "),
        ({"created_at": "2030-02-31T12:00:00Z"}, "created_at: "),
        ({"created_at": "2030-01-31T12:00:00+01:00"}, "created_at: "),
        ({"task": "sorting"}, "task: "),
        ({"link": "softmax"}, 'link: must be "logistic" or "identity"'),
        ({"link_scale": 0}, "link_scale: must lie between"),
        ({"link": "identity", "link_scale": 2}, "link_scale: must be 1 for identity, is 2"),
        ({"cover": "ones"}, "cover: "),
        ({"features": []}, "features: must not be empty"),
        ({"features": [FEATURE, FEATURE]}, r'features[1].name: "a" already stands at features[0].name'),
        ({"features": [{**FEATURE, "name": ""}]}, "features[0].name: must have 1 to 512"),
        ({"features": [{**FEATURE, "name": "a\nb"}]}, "features[0].name: must be printable"),
        ({"features": [{**FEATURE, "name": "\ud800"}]}, "features[0].name: must be printable"),
        ({"features": [{**FEATURE, "allows_missing": 1}]}, "features[0].allows_missing: "),
        ({"features": [{**FEATURE, "minimum": 2}]}, "features[0]: minimum"),
        ({"features": [{**FEATURE, "minimum": None}]}, "features[0]: minimum"),
        ({"features": [{**FEATURE, "maximum": 10**400}]}, "features[0].maximum: must be a finite"),
        ({"features": [{**FEATURE, "kind": "text"}]}, "features[0].kind: must be"),
        ({"features": [{**FEATURE, "categories": ["a"]}]}, "features[0].categories: has 1 entries; at most 0"),
        (
            {"features": [{**FEATURE, "kind": "categorical", "categories": [1]}]},
            "features[0].categories[0]: must be a string",
        ),
        ({"features": [{**FEATURE, "allows_unknown": False}]}, "features[0].categories: must not be empty"),
        (
            {"features": [{**FEATURE, "allows_unknown": False, "categories": ["1", "0.1"]}]},
            'features[0].categories[1]: "0.1" is no number that float32 holds',
        ),
        (
            {"features": [{**FEATURE, "allows_unknown": False, "categories": ["nan"]}]},
            'features[0].categories[0]: "nan" is no number',
        ),
        ({"features": [{**FEATURE, "kind": "string"}]}, "features[0].categories: must not be empty"),
        (
            {"features": [{**FEATURE, "kind": "string", "categories": ["a", "b", "a"]}]},
            'features[0].categories[2]: "a" already stands at features[0].categories[0]',
        ),
        (
            {"features": [{**FEATURE, "kind": "string", "categories": ["\ud800"]}]},
            "features[0].categories[0]: is no text",
        ),
        (
            {"features": [{**FEATURE, "kind": "string", "categories": ["a" * 600]}]},
            "features[0].categories[0]: has 600 characters",
        ),
        (
            {"features": [{**FEATURE, "kind": "categorical", "categories": ["a"], "allows_unknown": False}]},
            "features[0].allows_unknown: must be true for codes",
        ),
        ({"features": [{**FEATURE, "allows_unknown": 1}]}, "features[0].allows_unknown: must be true or false"),
        ({"features": [{**FEATURE, "more": 1}]}, "features[0].more: is not a known key"),
        ({"classes": ["a"]}, "classes: must have 2"),
        ({"classes": ["a", "a"]}, 'classes[1]: "a" already'),
        ({"classes": ["a", "b", "c"]}, "classes: must have 2"),
        ({"threshold": 0}, "threshold: must lie between"),
        ({"threshold": 1}, "threshold: must lie between"),
        ({"threshold": 1 - 1e-12}, "threshold: must lie between"),
        ({"favourable_class": "pardoned"}, "favourable_class: "),
        ({"latency_budget_ms": 0}, "latency_budget_ms: must be greater"),
        ({"files": {}}, "files: must describe"),
        ({"files": {"card.md": DIGEST}}, 'files: must describe "model.onnx"'),
        ({"files": {"model.onnx": DIGEST, "../x": DIGEST}}, 'files["../x"]: is no name'),
        ({"files": {"model.onnx": DIGEST, "": DIGEST}}, 'files[""]: is no name'),
        ({"files": {"model.onnx": DIGEST, "manifest.json": DIGEST}}, 'files["manifest.json"]: is no name'),
        ({"files": {"model.onnx": DIGEST, "manifest.sig": DIGEST}}, 'files["manifest.sig"]: is no name'),
        ({"files": {"model.onnx": DIGEST} | {f"f{i}": DIGEST for i in range(32)}}, "files: has 33 entries"),
        (
            {"files": {"model.onnx": DIGEST} | {f: {**DIGEST, "size_bytes": 129 << 20} for f in "ab"}},
            f"files: {2 * (129 << 20)} bytes beside the model",
        ),
        ({"files": {"model.onnx": {**DIGEST, "sha256": "AB" * 32}}}, 'files["model.onnx"].sha256: '),
        ({"files": {"model.onnx": {**DIGEST, "size_bytes": -1}}}, 'files["model.onnx"].size_bytes: '),
        ({"files": {"model.onnx": {**DIGEST, "size_bytes": (1 << 30) + 1}}}, 'files["model.onnx"].size_bytes: '),
        ({"parity": {**PARITY, "caller_rows": 1.0}}, "parity.caller_rows: must be an integer"),
        ({"parity": {**PARITY, "splits_total": 1 << 53}}, "parity.splits_total: "),
        ({"parity": {**PARITY, "attribution_reference": 1}}, "parity.attribution_reference: must be a string"),
        ({"parity": {**PARITY, "tolerance": -1}}, "parity.tolerance: must not be negative"),
        ({"parity": {**PARITY, "splits_tested": 12}}, "parity.splits_tested: must not exceed splits_total, is 12"),
        ({"parity": {**PARITY, "tolerance": 1e-6}}, "parity.max_margin_difference: must not exceed the tolerance"),
        ({"made_by": {"a b": "1"}}, "made_by: "),
        ({"made_by": {"a": 1}}, "made_by.a: must be a string"),
        ({"made_by": {f"tool{i}": "1" for i in range(65)}}, "made_by: has 65 entries"),
        ({"task": "multiclass_classification", "link": "softmax"}, "threshold: must be null"),
        ({"task": "regression", "link": "identity"}, "classes: must have 0"),
        ({"task": "regression", "link": "identity", "classes": []}, "threshold: must be null"),
        (
            {"task": "regression", "link": "identity", "classes": [], "threshold": None},
            "favourable_class: must be null",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_rule_names_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidModel) as error:
        parse(document(**changes))
    assert str(error.value).startswith("manifest.json: " + message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"schema": NaN}',
        b'{"schema": 1, "schema": 1}',
        b"[" * 200_000,
        b'{"schema": ' + b"9" * 5_000 + b"}",
        b" " * (MAX_MANIFEST_BYTES + 1),
        CLASSIFIER.to_json().replace(b"12.5", b"1e999"),
        CLASSIFIER.to_json().replace(b"0.4", b"-Infinity"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(InvalidModel, match=r"manifest\.json"):
        Manifest.parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(document())), value=json_values)
def test_any_value_of_any_key_parses_or_is_refused(key: str, value: Any) -> None:
    data = json.dumps(document(**{key: value})).encode()
    try:
        manifest = Manifest.parse(data)
    except InvalidModel as error:
        assert str(error).startswith("manifest.json: ")  # noqa: PT017 - it may also parse
    else:
        assert Manifest.parse(manifest.to_json()) == manifest


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "-a", "_a", "a/b", "a\\b", "a\0", "a\n", "é", "a b", "a" * 129])
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)


@given(names)
def test_names(text: str) -> None:
    assert is_name(text)
