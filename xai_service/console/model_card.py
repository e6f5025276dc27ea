"""What a model card says: the manifest in plain words, in sections, before any page is made of it.

Nothing is made up: a fact that the manifest does not hold has no value, and each renderer says "not stated" there.
The renderers are `card_html` and `card_text`; `mlbom` writes the same facts for machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xai_service.console.digits import as_written
from xai_service.model.provenance import ROWS_METHODS, TrainingData

if TYPE_CHECKING:
    from xai_service.model.manifest import Feature, Manifest
    from xai_service.model.provenance import FeatureFacts, RowsDigest

NOT_STATED = "not stated"
_NOT_CHECKED = "not checked"
LIBRARIES = {"catboost": "CatBoost", "lightgbm": "LightGBM", "xgboost": "XGBoost", "scikit-learn": "scikit-learn"}
"""Libraries that train models, by their names in ``made_by``; of a pipeline, scikit-learn and the model's own."""

# What a link is applied to is the margin; what it gives is called a probability of classifiers.
_LINKS = {
    "logistic": "the {output} is the logistic function of the margin",
    "identity": "the {output} is the margin itself",
    "exponential": "the {output} is the exponential of the margin",
    "softmax": "the probabilities are the softmax of the margins",
}
_COVERS = {
    "sum_hessian": "sums of the loss's second derivatives over the training rows",
    "data_count": "numbers of training rows",
    "weighted_count": "numbers of training rows, weighted",
    "node_hitrates": "as the converter of the ONNX file wrote them",
    "row_count": "numbers of the rows given when packing",
}
_RELATIONS = {
    True: "they are the training data",
    False: "they are not the training data",
    None: "whether they are the training data is not stated",
}
_DIRECTIONS = {1: "↑ rising", -1: "↓ falling", 0: "none"}

Style = Literal["plain", "prose", "code"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing said. ``value`` is ``None`` where nobody stated it; ``style`` is how it is set."""

    label: str
    value: str | None
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; cells that nobody stated are empty. ``numeric`` columns are set flush right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """``key`` is unique in the card: letters and dashes. ``text`` are paragraphs before the facts."""

    key: str
    title: str
    text: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What was found of the bundle's signature, by whoever looked.

    Attributes:
        state: "verified" by a trusted key, "unverified" where there is one that no key was given for, "none".
        text: in words.
        key_id: of the key that it names.
    """

    state: Literal["verified", "unverified", "none"]
    text: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A card: its head, the few facts that come first, by label, and its sections, in order."""

    name: str
    version: str
    summary: str
    description: str | None
    signature: Signature | None
    glance: tuple[tuple[str, str | None], ...]
    sections: tuple[Section, ...]


def model_card(manifest: Manifest, manifest_sha256: str, signature: Signature | None = None) -> ModelCard:
    """Returns the card of a bundle whose files were found to be those that its manifest describes.

    Args:
        manifest: as parsed.
        manifest_sha256: of its bytes, as hexadecimal digits.
        signature: what was found of it; ``None`` where nobody looked.
    """
    return ModelCard(
        name=manifest.name,
        version=manifest.version,
        summary=_task(manifest),
        description=manifest.provenance.description,
        signature=signature,
        glance=(
            ("Owner", manifest.provenance.owner),
            ("Signature", _NOT_CHECKED if signature is None else signature.text),
            ("Proof of conversion", f"{_splits(manifest)} tested, none differs"),
            ("Packed", manifest.created_at[:10]),
        ),
        sections=(
            _use(manifest),
            _outputs(manifest),
            _features(manifest),
            _data(manifest),
            _quality(manifest),
            _proof(manifest),
            _training(manifest),
            _identity(manifest, manifest_sha256, signature),
            _limits(manifest),
        ),
    )


def _task(manifest: Manifest) -> str:
    task = manifest.task.replace("_", " ").capitalize()
    return f"{task}: {_listed(manifest.classes, 'or')}" if manifest.classes else task


def _use(manifest: Manifest) -> Section:
    said = manifest.provenance
    facts = (
        Fact("Owner", said.owner),
        Fact("Contact", said.contact),
        Fact("Intended use", said.intended_use, "prose"),
        Fact("Not to be used for", said.out_of_scope_use, "prose"),
        Fact("Licence", said.licence),
    )
    return Section("use", "Who answers for it, and its use", facts=facts)


def _outputs(manifest: Manifest) -> Section:
    classes = manifest.classes
    link = _LINKS.get(manifest.link, f"the link is {manifest.link}")
    link = link.format(output="probability" if classes else "prediction")
    facts = [Fact("Task", _task(manifest)), Fact("Margin", f"raw score; {link}")]
    if manifest.threshold is not None and len(classes) == 2:
        rule = f"{classes[1]} where its probability is greater than {manifest.threshold:g}, else {classes[0]}"
        facts.append(Fact("Decision rule", rule))
    if classes:
        facts.append(Fact("Favourable outcome", manifest.favourable_class))
    budget = manifest.latency_budget_ms
    facts += [
        Fact("Explanation", _explanation(manifest)),
        Fact("Latency budget", None if budget is None else f"{budget:g} ms for each request, at most"),
    ]
    return Section("outputs", "What it answers", facts=tuple(facts))


def _explanation(manifest: Manifest) -> str:
    drawn = manifest.explanation.background_drawn
    if manifest.explanation.algorithm == "interventional":
        return "interventional SHAP of the margin, exact: the mean over the rows of the background"
    if manifest.explanation.algorithm == "permutation":
        return "SHAP of the margin, estimated along random permutations against the background, with standard errors"
    if manifest.explanation.algorithm == "linear":
        return f"SHAP of a linear margin, exact: what each column adds, less its mean over the background ({drawn})"
    return f"path-dependent TreeSHAP of the margin, exact; covers are {_COVERS.get(manifest.cover, manifest.cover)}"


def _features(manifest: Manifest) -> Section:
    known = [(feature, manifest.provenance.facts_of(feature.name)) for feature in manifest.features]
    protected = [feature.name for feature, facts in known if facts.protected]
    unstated = sum(facts.protected is None for _, facts in known)
    text = f"{_count(len(known), 'column')}. Ranges are those of the rows given when packing. Empty: not stated."
    sensitive = _listed(protected, "and") if protected else None if unstated else "none"
    if unstated and (protected or unstated < len(known)):
        sensitive = f"{sensitive or 'none stated'}; not stated for {_count(unstated, 'feature')}"
    columns = ("Feature", "Description", "Type", "Range", "Missing", "Monotonicity", "Protected", "Immutable")
    rows = tuple((feature.name, *_feature_cells(feature, facts)) for feature, facts in known)
    tables = [Table("Columns, in order", columns, rows)]
    reasons = [
        (feature.name, facts) for feature, facts in known if facts.reason_favourable or facts.reason_unfavourable
    ]
    if reasons:
        spoken = tuple((name, f.reason_favourable or "", f.reason_unfavourable or "") for name, f in reasons)
        tables.append(Table("Reasons given in notices", ("Feature", "In favour", "Against"), spoken))
    return Section("features", "Features", (text,), (Fact("Protected attributes", sensitive),), tuple(tables))


def _feature_cells(feature: Feature, facts: FeatureFacts) -> tuple[str, ...]:
    low, high = feature.minimum, feature.maximum
    span = "all missing" if low is None or high is None else f"{as_written(low)} to {as_written(high)}"
    if feature.kind == "string":
        span = f"{_count(len(feature.categories), 'known string')}{', and others' if feature.allows_unknown else ''}"
    elif feature.kind == "numeric" and feature.categories:
        span = f"{span}, of {_count(len(feature.categories), 'known value')}"
    direction = "" if facts.monotonicity is None else _DIRECTIONS[facts.monotonicity]
    if facts.is_monotonicity_proven is not None:
        direction += ", proven" if facts.is_monotonicity_proven else ", not proven"
    described = facts.description or ""
    if facts.unit:
        described = f"{described} ({facts.unit})" if described else f"in {facts.unit}"
    missing = "may be" if feature.allows_missing else "never"
    return (described, feature.kind, span, missing, direction, _yes_no(facts.protected), _yes_no(facts.immutable))


def _data(manifest: Manifest) -> Section:
    said, rows = manifest.provenance, manifest.provenance.packed_rows
    data, background = said.training_data or TrainingData(), said.background
    same, count = data.is_packed_rows, data.row_count
    if count is None and same and rows is not None:
        count = rows.row_count
    packed = None
    if rows is not None:
        packed = f"{_rows(rows)}; {_RELATIONS[same]}"
    facts = [
        Fact("Training data", data.name),
        Fact("Period", data.period),
        Fact("Rows trained on", None if count is None else f"{count:,}"),
        Fact("Lineage", data.lineage, "prose"),
        Fact("SHA-256 of the training data", data.sha256, "code"),
        Fact("Preprocessing", said.preprocessing, "prose"),
        Fact("Rows given when packing", packed),
    ]
    if rows is not None:
        facts.append(Fact("Digest of these rows", rows.sha256, "code"))
    if background is None:
        facts.append(Fact("Background", "none: attributions follow the covers in the trees"))
    else:
        facts += [
            Fact("Background", _rows(background.rows)),
            Fact("Background drawn", background.drawn, "prose"),
            Fact("Digest of the background", background.rows.sha256, "code"),
        ]
    methods = {one.method: None for one in (rows, background and background.rows) if one}
    facts += [Fact("How rows are digested", ROWS_METHODS[method]) for method in methods]
    return Section("data", "Data", facts=tuple(facts))


def _rows(rows: RowsDigest) -> str:
    return _count(rows.row_count, "row")


def _quality(manifest: Manifest) -> Section:
    metrics = manifest.provenance.metrics
    if not metrics:
        return Section("quality", "Quality", facts=(Fact("Metrics", None),))
    rows = tuple((one.name, f"{one.value:.6g}", one.dataset or "", one.slice or "") for one in metrics)
    table = Table("Metrics", ("Metric", "Value", "Data set", "Slice"), rows, numeric=(1,))
    return Section("quality", "Quality", ("As stated by the owner; packing does not measure them.",), tables=(table,))


def _proof(manifest: Manifest) -> Section:
    parity = manifest.parity
    trained = [f"{name} {manifest.made_by[key]}" for key, name in LIBRARIES.items() if key in manifest.made_by]
    library = f"{trained[0]} does" if trained else "the library that trained it does"
    if len(trained) > 1:
        library = f"{trained[0]} does behind the steps of a {trained[1]} pipeline"
    text = (
        f"The file that is served answers as {library}. Both were asked for {_count(parity.caller_rows, 'row')} "
        f"given when packing, {_count(parity.missing_rows, 'row')} with missing values and "
        f"{_count(parity.threshold_rows, 'row')} on or just beside the thresholds of "
        f"{_splits(manifest)} in its trees."
    )
    if parity.category_rows:
        text += f" {_count(parity.category_rows, 'row')} had each category that splits ask for, and unknown ones."
    facts = [
        Fact("Greatest difference of margins", f"{parity.max_margin_difference:.2g}"),
        Fact("Allowed", f"{parity.tolerance:.2g}"),
        Fact("Greatest difference of outputs", f"{parity.max_output_difference:.2g}"),
    ]
    if parity.attribution_reference is None:
        compared = "Its attributions were compared with no others, since nothing else computes them of such a model"
    else:
        compared = (
            f"Its attributions were compared with those of {parity.attribution_reference} on "
            f"{_count(parity.attribution_rows, 'row')}"
        )
        difference = f"{parity.max_attribution_difference:.2g} of the largest"
        facts.append(Fact("Greatest difference of attributions", difference))
    added = f"{compared}, and added up to the margin on {_count(parity.additivity_rows, 'row')}."
    facts.append(Fact("Greatest gap to the margin", f"{parity.max_additivity_residual:.2g} of what is added up"))
    return Section("proof", "Proof that it is the model that was trained", (text, added), tuple(facts))


def _splits(manifest: Manifest) -> str:
    tested, total = manifest.parity.splits_tested, manifest.parity.splits_total
    return f"{'all ' if tested == total else f'{tested:,} of the '}{_count(total, 'split')}"


def _training(manifest: Manifest) -> Section:
    said = manifest.provenance
    code = said.code
    facts = [Fact("Code revision", None if code is None else code.revision, "code")]
    if code is not None:
        found = {True: "yes", False: "no", None: None}[code.is_dirty]
        source = "read from Git where it was packed" if code.source == "git" else "stated"
        facts += [Fact("Uncommitted changes", found), Fact("Source of the revision", source)]
    if not said.hyper_parameters:
        facts.append(Fact("Hyper-parameters", None))
    settings = tuple((name, _scalar(value)) for name, value in said.hyper_parameters.items())
    tables = (Table("Hyper-parameters", ("Name", "Value"), settings, numeric=(1,)),) if settings else ()
    libraries = tuple(sorted(manifest.made_by.items()))
    packed_by = Table("Packed by", ("Library", "Version"), libraries, numeric=(1,))
    text = ("Hyper-parameters are those that the model itself tells of, and those that were stated.",)
    return Section("training", "Training and software", text if settings else (), tuple(facts), (*tables, packed_by))


def _identity(manifest: Manifest, manifest_sha256: str, signature: Signature | None) -> Section:
    facts = [
        Fact("Model", f"{manifest.name}, version {manifest.version}"),
        Fact("Packed", manifest.created_at),
        Fact("Signature", _NOT_CHECKED if signature is None else signature.text),
    ]
    if signature is not None and signature.key_id is not None:
        facts.append(Fact("Key", signature.key_id, "code"))
    facts.append(Fact("SHA-256 of manifest.json", manifest_sha256, "code"))
    for name, digest in manifest.files.items():
        facts.append(Fact(f"SHA-256 of {name}", digest.sha256, "code"))
        facts.append(Fact(f"Size of {name}", f"{digest.size_bytes:,} bytes"))
    facts.append(Fact("Format", manifest.schema))
    return Section("identity", "Identity", facts=tuple(facts))


def _limits(manifest: Manifest) -> Section:
    said = manifest.provenance
    text = [
        "What is stated is the word of whoever packed the model; computed were the digests, ranges and proofs.",
        "The proof is of the conversion: it says nothing of whether the model is right, fair or fit for its use.",
        "Attributions add up to the margin, not to a probability.",
        "Attributions say how the model weighed the values, not what would follow if a person's circumstances changed.",
        "Values beyond a feature's range are answered, but nothing like them was among the rows given when packing.",
    ]
    if any(facts.is_monotonicity_proven is not None for facts in said.features.values()):
        text.append(
            "Proven monotonicity: every tree by itself keeps the direction, all other features being equal; missing "
            "values are outside of it. Not proven does not mean that the direction is broken."
        )
    return Section("limits", "Limits", tuple(text))


def _scalar(value: str | float | bool | None) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _yes_no(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(texts: tuple[str, ...] | list[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
