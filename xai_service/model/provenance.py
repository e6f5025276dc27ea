"""Where a model comes from and what it is for: the manifest's ``provenance``, which model cards are made of.

Part of it is stated by the people who answer for the model, part is computed when packing (the digest of the rows, the
code's revision, what the trees prove of monotonicity). ``None`` means that nobody stated it, never that it is so or not
so. The manifest's reader is strict: each key is there, and holds what is due, or is refused with its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from xai_service.model import strict

Scalar = str | int | float | bool | None
Monotonicity = Literal[-1, 0, 1]
RowsMethod = Literal["sha256-float32le"]
CodeSource = Literal["git", "statement"]

ROWS_METHODS: Mapping[str, str] = {
    "sha256-float32le": "SHA-256 of the values as little-endian float32, row after row, each missing one as 0x7fc00000"
}
"""In words, how each method digests rows."""

MAX_HYPER_PARAMETERS = 512
MAX_METRICS = 512
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class RowsDigest:
    """Rows, pinned: ``method`` is a key of `ROWS_METHODS`, ``sha256`` 64 lower-case hexadecimal digits."""

    method: RowsMethod
    sha256: str
    row_count: int


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the model was trained on, as stated.

    Attributes:
        name: of the data set.
        period: when its rows came about, in words.
        lineage: where it comes from and what was done to it.
        row_count: rows trained on.
        sha256: of the data set, 64 lower-case hexadecimal digits; ``lineage`` should say of which file or export.
        is_packed_rows: whether the rows given when packing are these.
    """

    name: str | None = None
    period: str | None = None
    lineage: str | None = None
    row_count: int | None = None
    sha256: str | None = None
    is_packed_rows: bool | None = None


@dataclass(frozen=True, slots=True)
class Background:
    """The rows that interventional attributions compare with, and ``drawn``: how they were chosen."""

    rows: RowsDigest
    drawn: str | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """The code that made the model.

    Attributes:
        revision: of the version control system, such as a Git commit.
        is_dirty: whether tracked files differed from it; ``None`` where that was not found out.
        source: "git" where it was read from the work tree that packing ran in, "statement" where it was stated.
    """

    revision: str
    is_dirty: bool | None
    source: CodeSource


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of quality, as stated: on which data set, and on which part (``slice``) of it."""

    name: str
    value: float
    dataset: str | None = None
    slice: str | None = None


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What is known of one feature beside its column.

    Attributes:
        description, unit: in words.
        monotonicity: +1 where the margin never falls when the value rises, -1 where it never rises, 0 where neither
            is promised.
        is_monotonicity_proven: whether the trees themselves show it, each of them; only beside +1 and -1.
        protected: whether it is a sensitive attribute, which decisions must not rest on.
        immutable: whether the person decided about cannot change it.
        reason_favourable, reason_unfavourable: text for a notice where it pushes towards, or away from, the favourable
            outcome.
    """

    description: str | None = None
    unit: str | None = None
    monotonicity: Monotonicity | None = None
    is_monotonicity_proven: bool | None = None
    protected: bool | None = None
    immutable: bool | None = None
    reason_favourable: str | None = None
    reason_unfavourable: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that is known of the model's origin and purpose.

    Attributes:
        owner, contact: who answers for it, and how to reach them.
        description, intended_use, out_of_scope_use, preprocessing: in words.
        licence: in words or as an SPDX identifier.
        training_data: as stated.
        packed_rows: the rows given when packing, in the order given.
        background: of interventional attributions; ``None`` where they are path-dependent.
        code: that made the model.
        hyper_parameters: of training, by the library's names: where they differ from its defaults, or were stated.
        metrics: as stated.
        features: by feature name; only those of which something is known.
    """

    owner: str | None = None
    contact: str | None = None
    description: str | None = None
    intended_use: str | None = None
    out_of_scope_use: str | None = None
    licence: str | None = None
    preprocessing: str | None = None
    training_data: TrainingData | None = None
    packed_rows: RowsDigest | None = None
    background: Background | None = None
    code: Code | None = None
    hyper_parameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    features: Mapping[str, FeatureFacts] = field(default_factory=dict)

    def facts_of(self, feature: str) -> FeatureFacts:
        """Returns what is known of the feature, which may be nothing."""
        return self.features.get(feature, FeatureFacts())

    def ordered(self) -> Provenance:
        """Returns the same with its mappings in the order of their keys."""
        return dataclasses.replace(
            self,
            hyper_parameters=dict(sorted(self.hyper_parameters.items())),
            features=dict(sorted(self.features.items())),
        )


def parse(value: Any, path: str, feature_names: Collection[str]) -> Provenance:
    """Returns the provenance that a JSON value (untrusted) describes.

    Args:
        value: as `json.loads` gives it.
        path: of the value in its document, for messages.
        feature_names: the model's.

    Raises:
        InvalidModel: it is not a provenance; names the key and what is wrong with it.
    """
    fields = strict.object_of(value, path, Provenance)

    def optional(key: str, read: Callable[[Any, str], _Value]) -> _Value | None:
        return _optional(fields[key], strict.join(path, key), read)

    return Provenance(
        owner=optional("owner", strict.text),
        contact=optional("contact", strict.text),
        description=optional("description", strict.prose),
        intended_use=optional("intended_use", strict.prose),
        out_of_scope_use=optional("out_of_scope_use", strict.prose),
        licence=optional("licence", strict.text),
        preprocessing=optional("preprocessing", strict.prose),
        training_data=optional("training_data", _training_data),
        packed_rows=optional("packed_rows", _rows_digest),
        background=optional("background", _background),
        code=optional("code", _code),
        hyper_parameters=_hyper_parameters(fields["hyper_parameters"], strict.join(path, "hyper_parameters")),
        metrics=_metrics(fields["metrics"], strict.join(path, "metrics")),
        features=_features(fields["features"], strict.join(path, "features"), feature_names),
    )


def _optional(value: Any, path: str, read: Callable[[Any, str], _Value]) -> _Value | None:
    return None if value is None else read(value, path)


def _rows_digest(value: Any, path: str) -> RowsDigest:
    fields = strict.object_of(value, path, RowsDigest)
    return RowsDigest(
        method=cast("RowsMethod", strict.one_of(fields["method"], f"{path}.method", tuple(ROWS_METHODS))),
        sha256=strict.sha256(fields["sha256"], f"{path}.sha256"),
        row_count=strict.count(fields["row_count"], f"{path}.row_count"),
    )


def _training_data(value: Any, path: str) -> TrainingData:
    fields = strict.object_of(value, path, TrainingData)
    return TrainingData(
        name=_optional(fields["name"], f"{path}.name", strict.text),
        period=_optional(fields["period"], f"{path}.period", strict.text),
        lineage=_optional(fields["lineage"], f"{path}.lineage", strict.prose),
        row_count=_optional(fields["row_count"], f"{path}.row_count", strict.count),
        sha256=_optional(fields["sha256"], f"{path}.sha256", strict.sha256),
        is_packed_rows=_optional(fields["is_packed_rows"], f"{path}.is_packed_rows", strict.boolean),
    )


def _background(value: Any, path: str) -> Background:
    fields = strict.object_of(value, path, Background)
    return Background(
        rows=_rows_digest(fields["rows"], f"{path}.rows"),
        drawn=_optional(fields["drawn"], f"{path}.drawn", strict.prose),
    )


def _code(value: Any, path: str) -> Code:
    fields = strict.object_of(value, path, Code)
    return Code(
        revision=strict.text(fields["revision"], f"{path}.revision"),
        is_dirty=_optional(fields["is_dirty"], f"{path}.is_dirty", strict.boolean),
        source=cast("CodeSource", strict.one_of(fields["source"], f"{path}.source", ("git", "statement"))),
    )


def _hyper_parameters(value: Any, path: str) -> dict[str, Scalar]:
    parameters: dict[str, Scalar] = {}
    for key, one in sorted(strict.mapping_of(value, path, MAX_HYPER_PARAMETERS).items()):
        strict.text(key, path)
        where = strict.join(path, key)
        if isinstance(one, str):
            parameters[key] = strict.text(one, where)
        elif one is None or (isinstance(one, int) and abs(one) < 1 << 64):  # true and false, and seeds of 64 bits
            parameters[key] = one
        else:
            parameters[key] = strict.number(one, where)
    return parameters


def _metrics(value: Any, path: str) -> tuple[Metric, ...]:
    metrics = []
    for i, entry in enumerate(strict.list_of(value, path, MAX_METRICS)):
        where = f"{path}[{i}]"
        fields = strict.object_of(entry, where, Metric)
        metrics.append(
            Metric(
                name=strict.text(fields["name"], f"{where}.name"),
                value=strict.number(fields["value"], f"{where}.value"),
                dataset=_optional(fields["dataset"], f"{where}.dataset", strict.text),
                slice=_optional(fields["slice"], f"{where}.slice", strict.text),
            )
        )
    return tuple(metrics)


def _features(value: Any, path: str, names: Collection[str]) -> dict[str, FeatureFacts]:
    known = set(names)
    entries = strict.mapping_of(value, path, len(known))
    for name in sorted(entries.keys() - known):
        strict.wrong(strict.join(path, name), "is not a feature of the model")
    return {name: _facts(entry, strict.join(path, name)) for name, entry in sorted(entries.items())}


def _facts(value: Any, path: str) -> FeatureFacts:
    fields = strict.object_of(value, path, FeatureFacts)

    def optional(key: str, read: Callable[[Any, str], _Value]) -> _Value | None:
        return _optional(fields[key], f"{path}.{key}", read)

    monotonicity = optional("monotonicity", _monotonicity)
    proven = optional("is_monotonicity_proven", strict.boolean)
    if (proven is not None) != (monotonicity in (-1, 1)):
        strict.wrong(f"{path}.is_monotonicity_proven", "must be true or false beside monotonicity 1 and -1, else null")
    return FeatureFacts(
        description=optional("description", strict.prose),
        unit=optional("unit", strict.text),
        monotonicity=monotonicity,
        is_monotonicity_proven=proven,
        protected=optional("protected", strict.boolean),
        immutable=optional("immutable", strict.boolean),
        reason_favourable=optional("reason_favourable", strict.text),
        reason_unfavourable=optional("reason_unfavourable", strict.text),
    )


def _monotonicity(value: Any, path: str) -> Monotonicity:
    if isinstance(value, bool) or not isinstance(value, int) or value not in (-1, 0, 1):
        strict.wrong(path, "must be 1 (rising), -1 (falling) or 0 (neither)")
    return cast("Monotonicity", value)
