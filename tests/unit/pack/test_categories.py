"""Sets of categories are written so that nothing changes, and probed so that any change shows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pytest

from tests.matrix import lightgbm_models, xgboost_models
from tests.matrix.data import CATEGORICAL, REGION, people
from xai_service.errors import PackRefused
from xai_service.model.bundle import Bundle
from xai_service.pack import onnx_writer, pack, probes, readers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xai_service.pack.forest import Tree

    Broken = Callable[[Callable[[Tree], Tree]], None]

MODELS = {
    "one-hot": xgboost_models.categorical(max_cat_to_onehot=100),
    "sets": xgboost_models.categorical(max_cat_to_onehot=1),
    "LightGBM": lightgbm_models.categorical,
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Returns a function that lets another change the first tree with a set before it is written."""
    original = onnx_writer.write_onnx

    def install(change: Callable[[Tree], Tree]) -> None:
        def write(trees: Any, **arguments: Any) -> bytes:
            trees = list(trees)
            first = next(i for i, tree in enumerate(trees) if len(tree.set_value))
            trees[first] = change(trees[first])
            return original(trees, **arguments)

        monkeypatch.setattr(onnx_writer, "write_onnx", write)

    return install


def first_set(tree: Tree) -> int:
    return int(np.flatnonzero(tree.set_sizes)[0])


def other_code(tree: Tree) -> Tree:
    codes = tree.set_value.copy()
    codes[0] = (set(range(10)) - set(codes.tolist())).pop()
    return dataclasses.replace(tree, set_value=codes)


def exchanged(tree: Tree) -> Tree:
    left, right = tree.left.copy(), tree.right.copy()
    node = first_set(tree)
    left[node], right[node] = right[node], left[node]
    return dataclasses.replace(tree, left=left, right=right)


def missing_elsewhere(tree: Tree) -> Tree:
    missing = tree.missing_left.copy()
    missing[first_set(tree)] ^= True
    return dataclasses.replace(tree, missing_left=missing)


def code_lost(tree: Tree) -> Tree:
    node = int(np.argmax(tree.set_sizes))
    at = int(tree.set_begin[node])
    begin = np.where(np.arange(len(tree.set_begin)) > node, tree.set_begin - 1, tree.set_begin)
    return dataclasses.replace(tree, set_begin=begin, set_value=np.delete(tree.set_value, at))


@pytest.mark.parametrize("change", [other_code, exchanged, missing_elsewhere, code_lost], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["sets", "LightGBM"])
def test_the_gate_sees_a_wrong_set(name: str, change: Any, broken: Broken, tmp_path: Path) -> None:
    model = MODELS[name]().model
    broken(change)
    with pytest.raises(PackRefused, match=r"differ: worst at \w+ row \d+"):
        pack(model, people().rows, name="m", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODELS)
def test_each_probe_of_a_set_reaches_it(name: str) -> None:
    native = readers.read(MODELS[name]().model)
    names = [f"f{i}" for i in range(10)]
    found, reached, total = probes.split_probes(people().rows, native.trees, names)
    rows = probes.materialise(people().rows, found)
    assert reached == total
    of_sets = 0
    for probe, row in zip(found, rows, strict=True):
        t, target = (int(text.strip(")").split(" ")[-1]) for text in probe.where.split("(tree ")[1].split(","))
        tree, node = native.trees[t], 0
        seen = [0]
        while tree.left[node] >= 0:
            value, codes = row[tree.feature[node]], tree.codes(node)
            if np.isnan(value):
                left = tree.missing_left[node]
            elif len(codes):
                left = value in codes
            else:
                left = value <= tree.threshold[node] if tree.inclusive[node] else value < tree.threshold[node]
            node = int(tree.left[node] if left else tree.right[node])
            seen.append(node)
        assert target in seen
        if probe.kind == "category":
            of_sets += 1
            inside = row[tree.feature[target]] in tree.codes(target)
            assert inside == probe.where.startswith("with a code of")
    assert of_sets > 20


def test_all_codes_are_tried_and_others() -> None:
    native = readers.read(MODELS["sets"]().model)
    found = probes.category_probes(people().rows, native.trees, [f"f{i}" for i in range(10)])
    tried = {code for probe in found for feature, code in probe.edits.items() if feature == REGION}
    known = {
        float(code)
        for tree in native.trees
        for node in np.flatnonzero(tree.set_sizes)
        if tree.feature[node] == REGION
        for code in tree.codes(node)
    }
    assert tried == known | {-1.0, max(known) + 1}


def test_the_manifest_tells_codes_from_numbers(tmp_path: Path) -> None:
    case = lightgbm_models.of_frame()
    manifest = Bundle.load(pack(case.model, case.X, name="frame", out=tmp_path)).manifest
    assert [i for i, one in enumerate(manifest.features) if one.kind == "categorical"] == list(CATEGORICAL)
    assert manifest.features[REGION].categories == tuple(f"region {i}" for i in range(9))
    assert manifest.features[0].categories == ()
    bare = MODELS["LightGBM"]()
    manifest = Bundle.load(pack(bare.model, people().rows, name="codes", out=tmp_path)).manifest
    assert manifest.features[REGION].kind == "categorical"
    assert manifest.features[REGION].categories == ()


def test_categories_of_another_column_name_no_codes(tmp_path: Path) -> None:
    """LightGBM lists an ordered column's categories, which it takes for numbers, and not those of a column of codes."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    grade = pandas.Categorical(rng.choice(list("LMH"), 500), categories=list("LMH"), ordered=True)
    frame = pandas.DataFrame({"grade": grade, "shop": rng.integers(0, 5, 500), "x": rng.normal(size=500)})
    data = lightgbm.Dataset(frame, frame["x"] + (frame["shop"] == 3) + grade.codes, categorical_feature=["shop"])
    booster = lightgbm.train({"verbosity": -1, "min_data_per_group": 5, "cat_smooth": 1}, data, 5)
    assert booster.pandas_categorical == [["L", "M", "H"]]
    rows = frame.assign(grade=grade.codes).to_numpy(float)
    manifest = Bundle.load(pack(booster, rows, name="m", out=tmp_path)).manifest
    assert [(one.kind, one.categories) for one in manifest.features] == [
        ("numeric", ()), ("categorical", ()), ("numeric", ())
    ]  # fmt: skip


@pytest.mark.parametrize("of_frame", [xgboost_models.of_frame, lightgbm_models.of_frame])
def test_a_data_frame_gets_the_models_codes_not_its_own(of_frame: Any, tmp_path: Path) -> None:
    case = of_frame()
    backwards = case.X.copy()
    backwards["region"] = backwards["region"].cat.reorder_categories([f"region {i}" for i in reversed(range(9))])
    texts = case.X.assign(region=case.X["region"].astype(str))
    digests = {
        Bundle.load(pack(case.model, X, name="m", out=tmp_path)).onnx_sha256
        for X in (case.X, backwards, texts, people().rows)
    }
    assert len(digests) == 1
    ranges = {
        Bundle.load(tmp_path / "m" / version).manifest.features[REGION].maximum for version in ("1", "2", "3", "4")
    }
    assert ranges == {8.0}
    with pytest.raises(PackRefused, match=r"X\[0, 'region'\] is 'the moon', a category that the model was not"):
        pack(case.model, case.X.assign(region="the moon"), name="m", out=tmp_path)
    with pytest.raises(PackRefused, match=r"column 'region' holds float.*give it the dtype category"):
        pack(case.model, case.X.assign(region=1.0), name="m", out=tmp_path)
    with pytest.raises(PackRefused, match=r"column 'region' holds what can be no category: unhashable"):
        pack(case.model, case.X.assign(region=[["region 1"]] * len(case.X)), name="m", out=tmp_path)
