"""Joins what is stated of a model with what packing finds out: the rows' digest, the code, the library's own words."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_service.errors import PackRefused
from xai_service.model.provenance import FeatureFacts, Provenance, RowsDigest
from xai_service.pack.code_revision import read_code
from xai_service.pack.monotone import proven_directions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xai_service.model.provenance import Monotonicity, Scalar
    from xai_service.pack.native import NativeModel
    from xai_service.types import Float32Array

_MISSING = np.uint32(0x7FC00000).view(np.float32)


def find_out(stated: Provenance, native: NativeModel, rows: Float32Array, names: Sequence[str]) -> Provenance:
    """Returns the whole provenance, before the trees are read; `prove_monotonicity` completes it.

    Args:
        stated: from `xai_service.pack.card`.
        native: the model as its library sees it.
        rows: float32 (n, features), as given when packing.
        names: the features'.

    Raises:
        PackRefused: what is stated contradicts what the model itself tells.
    """
    return dataclasses.replace(
        stated,
        packed_rows=digest_rows(rows),
        code=stated.code or read_code(Path.cwd()),
        hyper_parameters=_hyper_parameters(stated.hyper_parameters, native.hyper_parameters),
        features=_features(stated.features, native.monotonicity, names),
    )


def digest_rows(rows: Float32Array) -> RowsDigest:
    """Returns the digest of float32 (n, features) rows; see `xai_service.model.provenance.ROWS_METHODS`."""
    digest = hashlib.sha256()
    for part in np.array_split(rows, max(1, rows.size >> 20)):  # a copy of all rows could be large
        digest.update(np.where(np.isnan(part), _MISSING, part).astype("<f4").tobytes())
    return RowsDigest("sha256-float32le", digest.hexdigest(), len(rows))


def prove_monotonicity(provenance: Provenance, native: NativeModel, names: Sequence[str]) -> Provenance:
    """Returns the provenance with what the trees and weights show of each direction that it holds."""
    rises, falls = proven_directions(native.trees, len(names))
    if native.asked is not None:  # nothing is known of it
        rises[:] = falls[:] = False
    if native.line is not None:
        rises &= (native.line.weights >= 0).all(axis=1)
        falls &= (native.line.weights <= 0).all(axis=1)
    shown = {name: {1: bool(rises[i]), -1: bool(falls[i])} for i, name in enumerate(names)}
    features = {
        name: dataclasses.replace(facts, is_monotonicity_proven=shown[name].get(facts.monotonicity or 0))
        for name, facts in provenance.features.items()
    }
    return dataclasses.replace(provenance, features=features)


def _hyper_parameters(stated: Mapping[str, Scalar], told: Mapping[str, Scalar]) -> dict[str, Scalar]:
    for name in stated.keys() & told.keys():
        if stated[name] != told[name]:
            raise PackRefused(
                f"hyper_parameters.{name} is stated as {stated[name]!r}, the model itself says {told[name]!r}: "
                "leave it out or correct it"
            )
    return {**stated, **told}


def _features(
    stated: Mapping[str, FeatureFacts], told: Sequence[Monotonicity] | None, names: Sequence[str]
) -> dict[str, FeatureFacts]:
    features = dict(stated)
    for name, direction in zip(names, told or (), strict=told is not None):
        facts = features.get(name, FeatureFacts())
        if facts.monotonicity not in (None, direction):
            raise PackRefused(
                f"features.{name}.monotonicity is stated as {facts.monotonicity}, the model itself says {direction}: "
                "leave it out or correct it"
            )
        features[name] = dataclasses.replace(
            facts, monotonicity=direction, is_monotonicity_proven=False if direction else None
        )
    return features
