"""Whether a LightGBM text file is whole, before LightGBM reads it: of a damaged one it crashes, or never comes back.

The file is a header of ``key=value`` lines, then trees, whose lengths in bytes the header gives, ``end of trees``, and
the parameters. A tree of n leaves has n - 1 splits; a child is a split's number, or ``-1 - leaf``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MAX_BYTES = 1 << 30
_IS_CATEGORICAL = 1  # bit 0 of a split's decision_type
# Not read here, but by LightGBM, which ends the process where one is no number.
_OF_SPLITS = ("split_gain", "internal_value", "internal_weight", "internal_count")
_OF_LEAVES = ("leaf_weight", "leaf_count")


class DamagedFile(ValueError):
    """The file is not what LightGBM writes; says where."""


def read_text(path: Path) -> str:
    """Returns the file's text, checked.

    Raises:
        DamagedFile: it is not a whole model.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        _damaged(f"it has more than {_MAX_BYTES} bytes")
    data = data.replace(b"\r\n", b"\n")
    if not data.startswith(b"tree\n"):
        _damaged("it does not begin with 'tree'")
    head, found, _ = data.partition(b"\n\n")
    header = _pairs(head, "the header")
    features = _integers(header, "max_feature_idx", "the header", 1)[0] + 1
    start, end = len(head) + 2, len(data)
    for key in ("feature_names", "feature_infos"):
        if len(header.get(key, "").split(" ")) != features:
            _damaged(f"the header's {key} are not {features}")
    sizes = _integers(header, "tree_sizes", "the header") if "tree_sizes" in header else np.zeros(0, np.int64)
    for tree, size in enumerate(sizes.tolist()):
        where = f"tree {tree}"
        if not found or not 0 < size <= end - start or not data.startswith(b"Tree=%d\n" % tree, start):
            _damaged(f"{where} is not there, or is of another length")
        _check_tree(_pairs(data[start : start + size], where), where, int(features))
        start += size
    rest = data[start:].lstrip(b"\n")
    if not rest.startswith(b"end of trees\n") or (b"\nparameters:" in rest) != (b"\nend of parameters\n" in rest):
        _damaged("it is cut short behind the trees")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        _damaged(f"it is not UTF-8: {error}")


def _check_tree(pairs: dict[str, str], where: str, features: int) -> None:
    leaves = int(_integers(pairs, "num_leaves", where, 1)[0])
    _numbers(pairs, "leaf_value", where, leaves)
    if leaves == 1:
        return
    splits = leaves - 1
    feature = _integers(pairs, "split_feature", where, splits)
    kind = _integers(pairs, "decision_type", where, splits)
    threshold = _numbers(pairs, "threshold", where, splits)
    lengths = {**dict.fromkeys(_OF_SPLITS, splits), **dict.fromkeys(_OF_LEAVES, leaves), "shrinkage": 1, "is_linear": 1}
    for key in lengths.keys() & pairs.keys():
        _numbers(pairs, key, where, lengths[key])
    if feature.min() < 0 or feature.max() >= features:
        _damaged(f"{where} splits on a feature beyond the {features}")
    children = np.sort(np.concatenate([_integers(pairs, f"{side}_child", where, splits) for side in ("left", "right")]))
    if not np.array_equal(children, np.r_[np.arange(-leaves, 0), np.arange(1, splits)]):
        _damaged(f"{where} is no tree: not each of its nodes is the child of one other")
    _check_sets(pairs, where, threshold[kind & _IS_CATEGORICAL != 0])


def _check_sets(pairs: dict[str, str], where: str, places: NDArray[np.float64]) -> None:
    """Checks the categories' bitmaps; ``places`` say which of them each categorical split takes."""
    sets = int(_integers(pairs, "num_cat", where, 1)[0])
    if not len(places) and not sets:
        return
    bounds = _integers(pairs, "cat_boundaries", where, sets + 1)
    words = _integers(pairs, "cat_threshold", where)
    ascends = bounds[0] == 0 and (np.diff(bounds) > 0).all() and bounds[-1] == len(words)
    if not ascends or not np.isin(places, np.arange(sets)).all():
        _damaged(f"{where} has categorical splits without their categories")


def _pairs(text: bytes, where: str) -> dict[str, str]:
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        _damaged(f"{where} is not UTF-8: {error}")
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _integers(pairs: dict[str, str], key: str, where: str, length: int | None = None) -> NDArray[np.int64]:
    return _array(pairs, key, where, length, np.int64)


def _numbers(pairs: dict[str, str], key: str, where: str, length: int) -> NDArray[np.float64]:
    return _array(pairs, key, where, length, np.float64)


def _array(pairs: dict[str, str], key: str, where: str, length: int | None, dtype: Any) -> NDArray[Any]:
    try:
        values = np.array(pairs.get(key, "").split(" "), dtype)
    except (ValueError, OverflowError):
        _damaged(f"{key} of {where} are no numbers")
    if length is not None and len(values) != length:
        _damaged(f"{key} of {where} has {len(values)} entries, {length} are due")
    return values


def _damaged(why: str) -> NoReturn:
    raise DamagedFile(why)
