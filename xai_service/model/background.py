"""The rows that interventional attributions compare with, as a bundle keeps them: ``background.npy``.

NumPy's own format, version 1.0, of a float32 array (rows, features) in C order: ``numpy.load`` reads it. From an
untrusted bundle it is not parsed, since a header could ask for anything: the size tells how many rows there are, the
rows tell the header, and that must be the one found, byte for byte.
"""

from __future__ import annotations

import numpy as np

from xai_service.errors import InvalidModel
from xai_service.model.manifest import BACKGROUND_FILE
from xai_service.types import Float32Array

MAX_ROWS = 10_000  # the kernel's own bound
_HEADER_BYTES = 128


def write_background(rows: Float32Array) -> bytes:
    """Returns the file that holds float32 (n, features) rows, the same bytes for equal rows."""
    return _header(*rows.shape) + rows.astype("<f4").tobytes()


def read_background(data: bytes, n_features: int) -> Float32Array:
    """Returns float32 (n, features) rows, 1 ≤ n ≤ `MAX_ROWS`, NaN where missing, never infinite.

    Args:
        data: the file, untrusted.
        n_features: columns of the model's input.

    Raises:
        InvalidModel: it is not such a file, or not of this model.
    """
    n = (len(data) - _HEADER_BYTES) // (4 * n_features)
    if not 1 <= n <= MAX_ROWS or data[:_HEADER_BYTES] != _header(n, n_features) or len(data) != _size(n, n_features):
        raise InvalidModel(
            f"{BACKGROUND_FILE}: is no float32 array (rows, {n_features}) of 1 to {MAX_ROWS} rows, in the format that "
            "`xai pack` writes: pack the model again"
        )
    rows = np.frombuffer(data, "<f4", offset=_HEADER_BYTES).reshape(n, n_features).astype(np.float32)
    if np.isinf(rows).any():
        row, column = (int(i) for i in np.argwhere(np.isinf(rows))[0])
        raise InvalidModel(f"{BACKGROUND_FILE}: row {row}, column {column} is infinite")
    return rows


def _size(n: int, n_features: int) -> int:
    return _HEADER_BYTES + 4 * n * n_features


def _header(n: int, n_features: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {n_features}), }}"
    start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    return start + text.encode().ljust(_HEADER_BYTES - 11) + b"\n"
