"""CatBoost's files, which are not to be trusted, and which .json file is whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import catboost
import numpy as np
import pytest
import xgboost

from xai_service.errors import PackRefused
from xai_service.model.snapshot import ModelSnapshot
from xai_service.pack import catboost_file, pack, readers

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.types import Float32Array, Float64Array


@pytest.fixture(scope="module", name="model")
def small_model(X: Float32Array, signal: Float64Array) -> catboost.CatBoostRegressor:
    model = catboost.CatBoostRegressor(iterations=3, depth=2, thread_count=1, verbose=False, allow_writing_files=False)
    return model.fit(X, signal)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("junk.cbm", b"junk"),
        ("header.cbm", b"CBM1" + b"\xff" * 40),  # on which CatBoost aborts
        ("empty.cbm", b""),
        ("pickle.cbm", b"\x80\x04\x95"),
        ("trees.json", b'{"trees": [1]}'),  # likewise
    ],
)
def test_damaged_files(name: str, data: bytes, X: Float32Array, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PackRefused, match=rf"{name}: CatBoost cannot read it.*write it again with save_model"):
        pack(tmp_path / name, X, name="m", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b'{"features_info": {}', b'{"trees": 3}'], ids=["cut", "odd"])
def test_files_that_catboost_takes_for_a_model_of_nothing(data: bytes, X: Float32Array, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(PackRefused, match="the model is damaged: what CatBoost writes of it is not whole"):
        pack(tmp_path / "m.json", X, name="m", out=tmp_path / "out")


def test_a_file_cut_short(model: catboost.CatBoostRegressor, X: Float32Array, tmp_path: Path) -> None:
    path = tmp_path / "m.cbm"
    model.save_model(str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PackRefused, match=r"m\.cbm: CatBoost cannot read it"):
        pack(path, X, name="m", out=tmp_path / "out")


def test_limits(
    model: catboost.CatBoostRegressor, X: Float32Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.cbm"
    model.save_model(str(path))
    monkeypatch.setattr(catboost_file, "_SECONDS", 0.01)
    with pytest.raises(PackRefused, match="CatBoost cannot read it"):
        pack(path, X, name="m", out=tmp_path / "out")
    monkeypatch.setattr(catboost_file, "MAX_MODEL_BYTES", 100)
    with pytest.raises(PackRefused, match="at most 100 are read"):
        pack(path, X, name="m", out=tmp_path / "out")


def test_json_files_of_both_libraries(
    model: catboost.CatBoostRegressor, booster: xgboost.Booster, X: Float32Array, tmp_path: Path
) -> None:
    model.save_model(str(tmp_path / "catboost.json"), format="json")
    booster.save_model(tmp_path / "xgboost.json")
    for library in ("catboost", "xgboost"):
        assert library in readers.read(tmp_path / f"{library}.json").made_by
    snapshot = ModelSnapshot.load(pack(tmp_path / "catboost.json", X, name="m", out=tmp_path / "out"))
    np.testing.assert_allclose(snapshot.predict(X).prediction[:, 0], model.predict(X), rtol=1e-5)
    assert snapshot.manifest.cover == "weighted_count"


def test_not_fitted(X: Float32Array, tmp_path: Path) -> None:
    with pytest.raises(PackRefused, match="the model is not fitted"):
        pack(catboost.CatBoostClassifier(), X, name="m", out=tmp_path)
