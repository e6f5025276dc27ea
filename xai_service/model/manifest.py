"""What a bundle says about its model: ``manifest.json``, written when packing and read, untrusted, when serving.

The manifest names the inputs and outputs in human words, pins the model file by digest, and carries the certificate
that the file computes what the native model computes. Parsing is strict: unknown keys, wrong types, out-of-range or
non-finite numbers are refused with the path of the key, so that a typo never silently changes what is served.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from xai_service.model import provenance, strict
from xai_service.model.model_file import MAX_MODEL_BYTES
from xai_service.model.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "xai.bundle/2"
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
BACKGROUND_FILE = "background.npy"
MAX_MANIFEST_BYTES = 16 << 20
MAX_FILES = 32  # that a manifest may list, the model among them
MAX_OTHER_BYTES = 256 << 20  # of all files but the model together

Task = Literal[
    "binary_classification", "multiclass_classification", "multilabel_classification", "regression", "ranking"
]
Link = Literal["identity", "logistic", "softmax", "exponential", "one_vs_all"]
Cover = Literal["sum_hessian", "data_count", "weighted_count", "node_hitrates", "row_count", "none"]
Algorithm = Literal["path_dependent", "interventional", "linear", "permutation"]
Kind = Literal["numeric", "categorical", "string"]

KINDS: tuple[Kind, ...] = ("numeric", "categorical", "string")

LINKS: Mapping[str, tuple[Link, ...]] = {
    "binary_classification": ("logistic", "identity"),
    "multiclass_classification": ("softmax", "one_vs_all", "identity"),
    "multilabel_classification": ("logistic", "identity"),
    "regression": ("identity", "exponential", "logistic"),
    "ranking": ("identity",),
}
"""The links that each task may have. A classifier's is identity where its leaves hold probabilities."""

COVERS: tuple[Cover, ...] = ("sum_hessian", "data_count", "weighted_count", "node_hitrates", "row_count", "none")
"""``node_hitrates``: as another converter wrote them, whatever they count; ``row_count``: counted when packing."""

ALGORITHMS: tuple[Algorithm, ...] = ("path_dependent", "interventional", "linear", "permutation")
_WITH_BACKGROUND_FILE: tuple[Algorithm, ...] = ("interventional", "permutation")
SCALED_LINKS: tuple[Link, ...] = ("logistic", "one_vs_all")
"""The links whose logistic function may be steeper or flatter than the usual one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_MAX_FEATURES = 1 << 20  # the kernel's own bound
_MAX_TOOLS = 64
_MAX_CLASSES = 1 << 16  # the kernel's own bound
_MAX_CATEGORIES = 1 << 20
_PARITY_COUNTS = (
    "caller_rows", "missing_rows", "threshold_rows", "splits_tested", "splits_total", "category_rows",
    "attribution_rows", "additivity_rows",
)  # fmt: skip
_Value = TypeVar("_Value")


def is_name(text: str) -> bool:
    """Whether the text may name a model or version: ``[A-Za-z0-9][A-Za-z0-9._-]*``, at most 128 characters.

    Such a name is also a safe directory name: it holds no separator and is never hidden, ``.`` or ``..``.
    """
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the input.

    Attributes:
        name: unique within the model; printable, 1 to 512 characters.
        allows_missing: whether a row may hold NaN here when served.
        minimum, maximum: range of the finite values in the rows given when packing; ``None`` where all were NaN.
        kind: numbers; whole numbers that are the codes of categories; or strings, which the model sees as their place
            in ``categories``, unknown ones as the place after the last.
        categories: what the codes 0, 1, 2 … of a categorical feature stand for; empty where the model does not tell.
            Of strings, those that the model knows. Of numbers, empty unless only these are taken.
        allows_unknown: whether a row may hold what is not in ``categories``.
    """

    name: str
    allows_missing: bool
    minimum: float | None
    maximum: float | None
    kind: Kind = "numeric"
    categories: tuple[str, ...] = ()
    allows_unknown: bool = True


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file of the bundle must be: SHA-256 as 64 lower-case hexadecimal digits, and size in bytes."""

    sha256: str
    size_bytes: int

    @staticmethod
    def of(data: bytes) -> FileDigest:
        """Returns the digest of a file that holds ``data``."""
        return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class Parity:
    """Certificate that the ONNX file and the native model answered alike; see `xai_service.pack.parity`.

    Attributes:
        caller_rows: rows tested as the caller gave them.
        missing_rows: rows tested with NaN in one, several or all features.
        threshold_rows: rows tested that stand on a split's threshold or one float32 step beside it.
        splits_tested: splits reached by such rows; ``splits_total``: splits in the model.
        tolerance: greatest |margin difference| allowed, in margin units; of several outputs, the greatest of theirs.
        max_margin_difference: greatest found, in margin units.
        max_output_difference: greatest found, in probability or in the prediction's unit.
        category_rows: rows tested with a category that splits know, or one that none knows.
        attribution_rows: rows whose attributions were compared with others computed from the native model.
        attribution_reference: what computed those; ``None`` where nothing could, and none were compared.
        max_attribution_difference: greatest found, as a share of the largest attribution of the same output.
        additivity_rows: rows on which base value and attributions were added up.
        max_additivity_residual: greatest |base + Σφ − margin|, as a share of |base| + Σ|φ| + |margin|.
    """

    caller_rows: int
    missing_rows: int
    threshold_rows: int
    splits_tested: int
    splits_total: int
    tolerance: float
    max_margin_difference: float
    max_output_difference: float
    category_rows: int = 0
    attribution_rows: int = 0
    attribution_reference: str | None = None
    max_attribution_difference: float = 0.0
    additivity_rows: int = 0
    max_additivity_residual: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the model is explained.

    Attributes:
        algorithm: path-dependent TreeSHAP with the file's covers; interventional SHAP against the rows of
            ``background.npy``, which then is one of the bundle's files; or, of a linear model, SHAP against rows of
            which only the means matter, which stand in the model file. Of any other model: sampled along permutations,
            against the rows of ``background.npy``, with a standard error.
        background_drawn: how the rows to explain against were chosen, for people; ``None`` where there are none.
    """

    algorithm: Algorithm = "path_dependent"
    background_drawn: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a bundle says about its model.

    Attributes:
        schema: ``xai.bundle/2``.
        name, version: also the names of the bundle's two directories; see `is_name`.
        created_at: RFC 3339, UTC, ending in ``Z``.
        task: what is predicted.
        link: from margin to probability or prediction.
        link_scale: what a logistic or one_vs_all link multiplies the margin by, > 0; else 1.
        cover: what the node covers in the model file count.
        features: the input's columns, in order.
        classes: names of the classes, in the order of the labels; empty unless it is a classification.
        threshold: of a binary classification: label 1 where its probability is greater, compared in float32, in (0, 1).
            Else ``None``: of several classes the one with the greatest margin is the label.
        favourable_class: the class that is good news for the person decided about, or ``None``.
        latency_budget_ms: budget of every request, in milliseconds (one may ask for less), or ``None``.
        files: digest of each file beside the manifest, by name; ``model.onnx`` is one of them.
        parity: the certificate.
        made_by: version of each tool that made the bundle.
        provenance: who answers for the model, what it is for, and from what data and code it came.
        explanation: how attributions are computed.
    """

    schema: str
    name: str
    version: str
    created_at: str
    task: Task
    link: Link
    link_scale: float
    cover: Cover
    features: tuple[Feature, ...]
    classes: tuple[str, ...]
    threshold: float | None
    favourable_class: str | None
    latency_budget_ms: float | None
    files: Mapping[str, FileDigest]
    parity: Parity
    made_by: Mapping[str, str]
    provenance: Provenance = field(default_factory=Provenance)
    explanation: Explanation = Explanation()

    def to_json(self) -> bytes:
        """Returns the manifest as UTF-8 JSON, the same bytes for equal manifests."""
        ordered = dataclasses.replace(
            self, files=_sorted(self.files), made_by=_sorted(self.made_by), provenance=self.provenance.ordered()
        )
        return (json.dumps(dataclasses.asdict(ordered), indent=2, allow_nan=False) + "\n").encode()

    @staticmethod
    def parse(data: bytes) -> Manifest:
        """Returns the manifest that ``data`` (UTF-8 JSON, untrusted, at most 16 MiB) describes.

        Raises:
            InvalidModel: it is not a manifest; names the key and what is wrong with it.
        """
        root = strict.object_of(_of_this_schema(strict.load(data, MAX_MANIFEST_BYTES)), "", Manifest)
        schema = strict.one_of(root["schema"], "schema", (SCHEMA,))
        task = cast("Task", strict.one_of(root["task"], "task", tuple(LINKS)))
        link = cast("Link", strict.one_of(root["link"], "link", LINKS[task]))
        classes = _classes(root["classes"], task)
        features = _features(root["features"])
        files = _files(root["files"])
        explanation = _explanation(root["explanation"], files)
        return Manifest(
            schema=schema,
            name=_name(root["name"], "name"),
            version=_name(root["version"], "version"),
            created_at=_time(root["created_at"], "created_at"),
            task=task,
            link=link,
            link_scale=_link_scale(root["link_scale"], link),
            cover=_cover(root["cover"], explanation),
            features=features,
            classes=classes,
            threshold=_threshold(root["threshold"], task),
            favourable_class=_favourable(root["favourable_class"], classes),
            latency_budget_ms=_budget(root["latency_budget_ms"]),
            files=files,
            parity=_parity(root["parity"]),
            made_by=_made_by(root["made_by"]),
            provenance=provenance.parse(root["provenance"], "provenance", [feature.name for feature in features]),
            explanation=explanation,
        )


def _of_this_schema(root: Any) -> Any:
    """Refuses a bundle of another schema before a key that it lacks is called wrong."""
    schema = root.get("schema") if isinstance(root, dict) else None
    if isinstance(schema, str) and schema != SCHEMA and schema.startswith("xai.bundle/"):
        strict.wrong("schema", f"must be {json.dumps(SCHEMA)}, is {json.dumps(schema[:64])}: pack the model again")
    return root


def _sorted(mapping: Mapping[str, _Value]) -> dict[str, _Value]:
    return dict(sorted(mapping.items()))


def _name(value: Any, path: str) -> str:
    text = strict.text(value, path)
    if not is_name(text):
        strict.wrong(path, f"{json.dumps(text)} must match [A-Za-z0-9][A-Za-z0-9._-]* and have at most 128 characters")
    return text


def _time(value: Any, path: str) -> str:
    text = strict.text(value, path)
    try:
        valid = _TIME.fullmatch(text) is not None and datetime.fromisoformat(text).tzinfo == UTC
    except ValueError:
        valid = False
    if not valid:
        strict.wrong(path, f"must be RFC 3339 in UTC such as 2030-01-31T12:00:00Z, is {json.dumps(text)}")
    return text


def _features(value: Any) -> tuple[Feature, ...]:
    features = []
    for i, entry in enumerate(strict.list_of(value, "features", _MAX_FEATURES)):
        path = f"features[{i}]"
        if isinstance(entry, dict):
            entry.setdefault("allows_unknown", True)  # in bundles from before there were pipelines
        fields = strict.object_of(entry, path, Feature)
        low, high = (
            None if fields[key] is None else strict.number(fields[key], f"{path}.{key}")
            for key in ("minimum", "maximum")
        )
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            strict.wrong(path, "minimum and maximum must both be null, or minimum must not exceed maximum")
        name = strict.text(fields["name"], f"{path}.name")
        may = strict.boolean(fields["allows_missing"], f"{path}.allows_missing")
        features.append(Feature(name, may, low, high, *_kind_of_feature(fields, path)))
    if not features:
        strict.wrong("features", "must not be empty")
    strict.unique(tuple(feature.name for feature in features), "features", ".name")
    return tuple(features)


def _kind_of_feature(fields: dict[str, Any], path: str) -> tuple[Kind, tuple[str, ...], bool]:
    kind = cast("Kind", strict.one_of(fields["kind"], f"{path}.kind", KINDS))
    allows_unknown = strict.boolean(fields["allows_unknown"], f"{path}.allows_unknown")
    most = 0 if kind == "numeric" and allows_unknown else _MAX_CATEGORIES
    listed = strict.list_of(fields["categories"], f"{path}.categories", most)
    if not listed and (kind == "string" or not allows_unknown):
        strict.wrong(f"{path}.categories", "must not be empty")
    if kind == "string":
        names = tuple(_category(entry, f"{path}.categories[{i}]") for i, entry in enumerate(listed))
        strict.unique(names, f"{path}.categories")
        return kind, names, allows_unknown
    names = tuple(strict.text(entry, f"{path}.categories[{i}]") for i, entry in enumerate(listed))
    if kind == "numeric":
        for i, name in enumerate(names):
            if not _is_float32(name):
                strict.wrong(f"{path}.categories[{i}]", f"{json.dumps(name)} is no number that float32 holds")
    elif not allows_unknown:
        strict.wrong(f"{path}.allows_unknown", "must be true for codes of categories")
    return kind, names, allows_unknown


def _category(value: Any, path: str) -> str:
    """A string that rows may hold: any that UTF-8 can carry, also an empty one."""
    if not isinstance(value, str):
        strict.wrong(path, f"must be a string, is {strict.kind(value)}")
    if len(value) > strict.MAX_TEXT:
        strict.wrong(path, f"has {len(value)} characters; at most {strict.MAX_TEXT} are accepted")
    try:
        value.encode()
    except UnicodeEncodeError:
        strict.wrong(path, f"is no text: {json.dumps(value[:64])}")
    return value


def _is_float32(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    with np.errstate(over="ignore"):
        return math.isfinite(number) and float(np.float32(number)) == number


def _classes(value: Any, task: Task) -> tuple[str, ...]:
    least, most = {"binary_classification": (2, 2), "regression": (0, 0), "ranking": (0, 0)}.get(
        task, (2, _MAX_CLASSES)
    )
    classes = tuple(
        strict.text(entry, f"classes[{i}]") for i, entry in enumerate(strict.list_of(value, "classes", _MAX_CLASSES))
    )
    if not least <= len(classes) <= most:
        due = least if least == most else f"{least} to {most}"
        strict.wrong("classes", f"must have {due} entries for {task}, has {len(classes)}")
    strict.unique(classes, "classes")
    return classes


def _link_scale(value: Any, link: Link) -> float:
    scale = strict.number(value, "link_scale")
    if link not in SCALED_LINKS and scale != 1:
        strict.wrong("link_scale", f"must be 1 for {link}, is {scale:g}")
    if not 1e-6 <= scale <= 1e6:
        strict.wrong("link_scale", f"must lie between 1e-6 and 1e6, is {scale:g}")
    return scale


def _threshold(value: Any, task: Task) -> float | None:
    if task != "binary_classification":
        if value is not None:
            strict.wrong("threshold", f"must be null for {task}")
        return None
    threshold = strict.number(value, "threshold")
    if not 1e-30 < threshold < 1 - 1e-7:  # so that it stays inside (0, 1) as float32
        strict.wrong("threshold", f"must lie between 0 and 1, is {threshold:g}")
    return threshold


def _favourable(value: Any, classes: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    if not classes:
        strict.wrong("favourable_class", "must be null where there are no classes")
    return strict.one_of(value, "favourable_class", classes)


def _budget(value: Any) -> float | None:
    if value is None:
        return None
    budget = strict.number(value, "latency_budget_ms")
    if budget <= 0:
        strict.wrong("latency_budget_ms", f"must be greater than 0, is {budget:g}")
    return budget


def _files(value: Any) -> dict[str, FileDigest]:
    files = strict.mapping_of(value, "files")
    if MODEL_FILE not in files:
        strict.wrong("files", f"must describe {json.dumps(MODEL_FILE)}")
    if len(files) > MAX_FILES:
        strict.wrong("files", f"has {len(files)} entries; at most {MAX_FILES} are accepted")
    digests = {name: _digest(name, entry) for name, entry in files.items()}
    others = sum(digest.size_bytes for name, digest in digests.items() if name != MODEL_FILE)
    if others > MAX_OTHER_BYTES:
        strict.wrong("files", f"{others} bytes beside the model; at most {MAX_OTHER_BYTES} are accepted")
    return digests


def _digest(name: str, value: Any) -> FileDigest:
    path = f"files[{json.dumps(name[:64])}]"
    if not is_name(name) or name in (MANIFEST_FILE, SIGNATURE_FILE):
        strict.wrong(path, "is no name that a file beside the manifest may have")
    fields = strict.object_of(value, path, FileDigest)
    sha256 = strict.sha256(fields["sha256"], f"{path}.sha256")
    size = strict.count(fields["size_bytes"], f"{path}.size_bytes")
    if size > MAX_MODEL_BYTES:
        strict.wrong(f"{path}.size_bytes", f"{size} bytes; at most {MAX_MODEL_BYTES} are accepted")
    return FileDigest(sha256, size)


def _explanation(value: Any, files: Mapping[str, FileDigest]) -> Explanation:
    fields = strict.object_of(value, "explanation", Explanation)
    algorithm = cast("Algorithm", strict.one_of(fields["algorithm"], "explanation.algorithm", ALGORITHMS))
    drawn = fields["background_drawn"]
    is_there = "one of" if BACKGROUND_FILE in files else "not one of"
    if (algorithm in _WITH_BACKGROUND_FILE) != (BACKGROUND_FILE in files):
        strict.wrong("explanation.algorithm", f"is {algorithm}, and {BACKGROUND_FILE} is {is_there} the files")
    if (algorithm == "path_dependent") != (drawn is None):
        strict.wrong(
            "explanation.background_drawn",
            "must be given with all explanations but path-dependent ones, and null there",
        )
    return Explanation(algorithm, None if drawn is None else strict.text(drawn, "explanation.background_drawn"))


def _cover(value: Any, explanation: Explanation) -> Cover:
    cover = cast("Cover", strict.one_of(value, "cover", COVERS))
    if cover == "none" and explanation.algorithm == "path_dependent":
        strict.wrong("cover", "must not be none where explanations are path-dependent")
    return cover


def _parity(value: Any) -> Parity:
    fields = strict.object_of(value, "parity", Parity)
    counts = {key: strict.count(fields[key], f"parity.{key}") for key in _PARITY_COUNTS}
    reference = fields["attribution_reference"]
    if reference is not None:
        strict.text(reference, "parity.attribution_reference")
    others = fields.keys() - counts.keys() - {"attribution_reference"}
    sizes = {key: strict.number(fields[key], f"parity.{key}") for key in sorted(others)}
    for key, size in sizes.items():
        if size < 0:
            strict.wrong(f"parity.{key}", f"must not be negative, is {size:g}")
    # What packing refuses to write; a model card would call it proven.
    if counts["splits_tested"] > counts["splits_total"]:
        strict.wrong("parity.splits_tested", f"must not exceed splits_total, is {counts['splits_tested']}")
    if sizes["max_margin_difference"] > sizes["tolerance"]:
        strict.wrong(
            "parity.max_margin_difference", f"must not exceed the tolerance, is {sizes['max_margin_difference']:g}"
        )
    return Parity(**cast("dict[str, Any]", counts | sizes), attribution_reference=reference)


def _made_by(value: Any) -> dict[str, str]:
    tools = strict.mapping_of(value, "made_by")
    if len(tools) > _MAX_TOOLS:
        strict.wrong("made_by", f"has {len(tools)} entries; at most {_MAX_TOOLS} are accepted")
    return {
        _name(tool, "made_by"): strict.text(version, strict.join("made_by", tool)) for tool, version in tools.items()
    }
