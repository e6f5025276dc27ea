"""Statistics of the rows that each model was asked about, folded in as they are checked."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from xai_service._profile import FeatureProfile
from xai_service.checks import check_values

if TYPE_CHECKING:
    from xai_service.model.snapshot import ModelSnapshot
    from xai_service.types import Column, Float32Array


class Profiles:
    """Streaming statistics of the rows each model was asked about."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By weak reference: a model's statistics go with it.
        self._by_model: weakref.WeakKeyDictionary[ModelSnapshot, FeatureProfile] = weakref.WeakKeyDictionary()

    def check(self, rows: Float32Array, columns: tuple[Column, ...], model: ModelSnapshot) -> None:
        """Raises InvalidInput where the rows are not the model's; leaves no trace of them."""
        check_values(rows, columns, model, FeatureProfile(len(model.feature_names)))

    def check_and_merge(self, rows: Float32Array, columns: tuple[Column, ...], model: ModelSnapshot) -> None:
        """Folds the rows in when they are the model's, else raises InvalidInput and leaves no trace of them."""
        profile = self._by_model.get(model)
        if profile is None:
            with self._lock:
                profile = self._by_model.setdefault(model, FeatureProfile(len(model.feature_names)))
        scan = check_values(rows, columns, model, profile)
        with self._lock:
            profile.merge(scan)

    def copies(self) -> list[tuple[ModelSnapshot, FeatureProfile]]:
        """Returns each model's statistics so far."""
        with self._lock:
            known = list(self._by_model.items())
        copies = []
        for model, profile in known:
            copy = FeatureProfile(len(model.feature_names))
            copy.merge(profile)  # no other merge comes between
            copies.append((model, copy))
        return copies
