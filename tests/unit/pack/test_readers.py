"""Each model finds its reader, and what is damaged or dangerous is refused before a library crashes on it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from tests.matrix import lightgbm_models
from tests.matrix.data import people
from xai_service.errors import PackRefused
from xai_service.pack import pack, readers
from xai_service.pack.reading import scalars


class OwnClassifier(xgboost.XGBClassifier):
    """As users derive theirs."""


def test_derived_classes_are_read() -> None:
    model = OwnClassifier(n_estimators=2, n_jobs=1).fit(people().rows, people().targets["well paid"].astype(int))
    native = readers.read(model)
    assert native.task == "binary_classification"
    assert readers.read(native) is native


@pytest.mark.parametrize("name", ["model.pkl", "model.PICKLE", "model.joblib", "model.txt", "model.json", "model.ubj"])
def test_pickles_are_never_loaded(name: str, tmp_path: Path) -> None:
    """Whatever the file is called."""
    mark = tmp_path / "was run"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(PackRefused, match=r"pickles are never loaded|write it again with Booster\.save_model"):
        pack(path, people().rows, name="m", out=tmp_path / "out")
    assert not mark.exists()


@pytest.fixture(scope="module")
def text() -> bytes:
    return Path(lightgbm_models.saved().model).read_bytes()


def read_text(data: bytes, folder: Path) -> Any:
    path = folder / "model.txt"
    path.write_bytes(data)
    return readers.read(path)


def test_a_whole_text_file(text: bytes, tmp_path: Path) -> None:
    assert len(read_text(text, tmp_path).trees) == 30
    assert len(read_text(text.replace(b"\n", b"\r\n"), tmp_path).trees) == 30


def test_a_text_file_cut_anywhere(text: bytes, tmp_path: Path) -> None:
    for length in np.linspace(0, text.index(b"end of parameters"), 60).astype(int):
        with pytest.raises(PackRefused, match=r"is no LightGBM model, or damaged or cut short: .*save_model$"):
            read_text(text[:length], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"left_child=", b"left_child=1", "tree 0 is no tree: not each of its nodes is the child of one other"),
        (b"max_feature_idx=9", b"max_feature_idx=2", "the header's feature_names are not 3"),
        (b"num_leaves=9", b"num_leaves=8", "leaf_value of tree 0 has 9 entries, 8 are due"),
        (b"split_feature=", b"split_feature=99", "split_feature of tree 0 has 7 entries, 8 are due"),
        (b"split_gain=", b"split_gain=x", "split_gain of tree 0 are no numbers"),
        (b"num_cat=0", b"num_cat=3", "cat_boundaries of tree 0"),
        (b"end of trees", b"end of trade", "cut short behind the trees"),
    ],
)
def test_a_damaged_text_file(old: bytes, new: bytes, says: str, text: bytes, tmp_path: Path) -> None:
    """Of the same length throughout, as a flipped bit leaves it."""
    at = text.index(old)
    damaged = text[:at] + new + text[at + len(new) :]
    with pytest.raises(PackRefused, match=says):
        read_text(damaged, tmp_path)


def test_a_text_file_with_categories(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    lightgbm_models.categorical().model.save_model(path)
    data = path.read_bytes()
    assert readers.read(path).categorical == {8, 9}
    at = data.index(b"cat_boundaries=0 ") + len(b"cat_boundaries=0 ")
    with pytest.raises(PackRefused, match="has categorical splits without their categories"):
        read_text(data[:at] + b"9" + data[at + 1 :], tmp_path)


def test_linear_trees_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    lightgbm_models.trained("log wage", objective="regression", linear_tree=True)().model.save_model(path)
    with pytest.raises(PackRefused, match="linear_tree is not supported"):
        readers.read(path)


def test_settings_of_training_that_a_card_can_tell() -> None:
    given = {
        "depth": 3,
        "rate": 0.1,
        "fast": True,
        "kind": "hist",
        "seed": None,
        "bins": [1, 2],
        "missing": float("nan"),
    }
    assert scalars(given) == {"depth": 3, "rate": 0.1, "fast": True, "kind": "hist", "seed": None}
