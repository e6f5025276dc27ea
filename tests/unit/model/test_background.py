"""The background's file: NumPy reads what is written, and nothing else than what is written is read."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from xai_service.errors import InvalidModel
from xai_service.model.background import read_background, write_background

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = np.array([[1.5, np.nan, -3], [0, 2, 1e30]], np.float32)


def saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_numpy_reads_it() -> None:
    data = write_background(ROWS)
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, ROWS)
    np.testing.assert_array_equal(read_background(data, 3), ROWS)
    assert data == write_background(np.asfortranarray(ROWS))


def header(changed: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert changed in data
        return data.replace(changed, by.ljust(len(changed)), 1)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:128],
        lambda data: data[:100],
        lambda _: saved(ROWS.astype(np.float64)),
        lambda _: saved(ROWS.T),
        lambda _: saved(np.array([{"a": 1}], object)),
        lambda _: pickle.dumps(ROWS),
        lambda _: write_background(np.zeros((10_001, 3), np.float32)),
        lambda _: write_background(np.zeros((2, 4), np.float32)),
        header(b"(2, 3)", b"(2, 9)"),
        header(b"(2, 3)", b"(9**9,)"),
        header(b"'<f4'", b"'|O'"),
        header(b"False", b"True"),
        header(b"\x01\x00v\x00", b"\x02\x00v\x00"),
    ],
)
def test_nothing_else_is_read(change: Callable[[bytes], bytes]) -> None:
    data = change(write_background(ROWS))
    assert data != write_background(ROWS)
    with pytest.raises(InvalidModel, match=r"background\.npy: is no float32 array \(rows, 3\) .* pack the model again"):
        read_background(data, 3)


def test_infinite_values_are_named() -> None:
    rows = ROWS.copy()
    rows[1, 2] = np.inf
    with pytest.raises(InvalidModel, match=r"background\.npy: row 1, column 2 is infinite"):
        read_background(write_background(rows), 3)
