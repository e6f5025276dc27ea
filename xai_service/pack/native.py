"""What a library's reader hands over: the neutral description that the rest of packing works from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xai_service.model.manifest import Cover, Link, Task
    from xai_service.model.provenance import Monotonicity, Scalar
    from xai_service.types import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class NativeModel:
    """A model as its own library sees it.

    Attributes:
        made_by: versions of the libraries that read it.
        trees: the same trees as a ``treelite.Model``.
        base: added to the sum of the leaves, in margin units; exactly a float32.
        task, link, cover: as in the manifest.
        n_features: columns of its input.
        feature_names: as the model knows them, or ``None``.
        predict: the library itself, for float32 (n, features), NaN where missing: margins, float32 (n,), and outputs,
            float32 (n,), which are probabilities of class 1 or predictions.
    """

    made_by: Mapping[str, str]
    trees: Any
    base: float
    task: Task
    link: Link
    cover: Cover
    n_features: int
    feature_names: tuple[str, ...] | None
    predict: Callable[[Float32Array], tuple[Float32Array, Float32Array]]
    hyper_parameters: Mapping[str, Scalar] = field(default_factory=dict)
    monotonicity: tuple[Monotonicity, ...] | None = None
