"""Decisions as people read them in a terminal, and as programs read them: aligned text, and JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from xai_service.console.digits import decimals_for, fixed
from xai_service.console.messages import as_message
from xai_service.types import ExplanationStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from xai_service.client import Decision, Explanation, ModelStatus, Reply
    from xai_service.types import Float32Array, Float64Array, Method, Timings

_BAR_CELLS = 16
_LONGEST_TEXT = 40


def to_json(value: Any, *, indent: int | None = None) -> str:
    """One JSON text, UTF-8 as it is; NaN and infinities, which JSON has not, become null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | str) -> str:
    """A feature's value, short enough for a column, or ``missing``."""
    if isinstance(value, str):  # of whoever sent the row: nothing in it may move a terminal's cursor
        text = value if value.isprintable() else ascii(value)
        return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return "missing" if math.isnan(value) else f"{value:.6g}" if abs(value) >= 1000 else f"{value:.4g}"


def signed(value: float, span: float) -> str:
    """A contribution with its arrow, ``↑ +0.31``, ``↓ -0.81``; ``span`` is the largest of its decision."""
    arrow = "↑" if value > 0 else "↓" if value < 0 else " "
    return f"{arrow} {_plus(value, decimals_for(span))}"


def _plus(value: float, decimals: int) -> str:
    return ("" if value < 0 else "+") + fixed(value, decimals)


def span_of(phi: Float64Array) -> float:
    """The largest contribution, whatever its sign; 0 where there is none."""
    return float(np.abs(phi).max(initial=0.0))


def coloured(text: str, value: float) -> str:
    """Green for what raises, red for what lowers; `click.echo` takes colours away where no terminal reads."""
    return click.style(text, fg="green" if value > 0 else "red") if value else text


def strongest(phi: Float64Array, top: int | None = None) -> list[int]:
    """Indices of the ``top`` features that weigh most, heaviest first; those that add nothing are left out."""
    order = np.argsort(-np.abs(phi), kind="stable")[:top]
    return [int(index) for index in order if phi[index] != 0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns two spaces apart, each as wide as its widest cell; the columns in ``right`` end flush."""
    lines = [header, *rows]
    widths = [max(len(click.unstyle(line[column])) for line in lines) for column in range(len(header))]

    def cell(text: str, column: int) -> str:
        space = " " * (widths[column] - len(click.unstyle(text)))
        return space + text if column in right else text + space

    return "\n".join("  ".join(cell(text, column) for column, text in enumerate(line)).rstrip() for line in lines)


def explained_output(attributions: Float64Array, label: int | None, probabilities: Float32Array | None) -> int:
    """Which output to show: the decided class's where there is one for each class, else the first.

    Where several classes may hold at once, and so none is decided, it is the most probable one's.
    """
    if label is None and probabilities is not None and len(probabilities) == attributions.shape[-1]:
        label = int(np.argmax(probabilities))
    return label if label is not None and attributions.shape[-1] > max(1, label) else 0


def output_names(classes: Sequence[str], outputs: int) -> list[str]:
    """What to call the outputs: the classes where there is one for each, else their numbers; one needs no name."""
    if outputs == 1:
        return [""]
    return list(classes) if len(classes) == outputs else [str(output) for output in range(outputs)]


def reasons(reply: Reply, row: int, top: int) -> str:
    """One row's heaviest features in one line, or why there are none."""
    if reply.attributions is None or reply.statuses[row] is not ExplanationStatus.COMPLETE:
        return reply.statuses[row].value
    label = None if reply.labels is None else int(reply.labels[row])
    probabilities = None if reply.probabilities is None else reply.probabilities[row]
    phi = reply.attributions[row, :, explained_output(reply.attributions, label, probabilities)]
    span = span_of(phi)
    return "   ".join(
        f"{reply.feature_names[index]} {number(reply.rows[row, index])} "
        + coloured(signed(phi[index], span), phi[index])
        for index in strongest(phi, top)
    )


def reply_table(reply: Reply, top: int, first_row: int) -> str:
    """One line for each row: what was decided, the heaviest features, the decision's id."""
    header, right = ["row", "decision id"], [0]
    rows = [[str(first_row + row), one] for row, one in enumerate(reply.decision_ids)]
    if reply.labels is not None and reply.probabilities is not None:
        header += ["decided", "p"]
        for cells, label, probabilities in zip(rows, reply.labels, reply.probabilities, strict=True):
            cells += [_class_name(reply.classes, int(label)), f"{probabilities[label]:.3f}"]
    elif reply.probabilities is not None:
        header += ["p"]
        for cells, probabilities in zip(rows, reply.probabilities, strict=True):
            cells.append(_listed(reply.classes, probabilities))
    else:
        header += ["prediction"]
        values = reply.margin if reply.prediction is None else reply.prediction
        for cells, value in zip(rows, values, strict=True):
            cells.append(" ".join(f"{one:.6g}" for one in value))
    header.append("what weighed most")
    for row, cells in enumerate(rows):
        cells.append(reasons(reply, row, top))
    return table(header, rows, right)


def reply_json(reply: Reply, row: int, row_number: int) -> dict[str, Any]:
    """One row of a reply."""
    label = None if reply.labels is None else int(reply.labels[row])
    status = reply.statuses[row]
    complete = reply.attributions is not None and status is ExplanationStatus.COMPLETE
    phi = reply.attributions[row] if reply.attributions is not None and complete else None
    return {
        "row": row_number,
        "decision_id": reply.decision_ids[row],
        "model": {"name": reply.model_name, "version": reply.model_version, "sha256": reply.model_sha256},
        "input": dict(zip(reply.feature_names, reply.rows[row].tolist(), strict=True)),
        "margin": reply.margin[row],
        "probabilities": _by_class(reply.classes, None if reply.probabilities is None else reply.probabilities[row]),
        "label": None if label is None else _class_name(reply.classes, label),
        "prediction": None if reply.prediction is None else reply.prediction[row],
        "explanation": {
            "status": status.value,
            "attributions": None if phi is None else dict(zip(reply.feature_names, phi.tolist(), strict=True)),
            "base_values": reply.base_values,
            "standard_error": _errors_json(reply.feature_names, reply.standard_error, row if complete else None),
            "additivity_residual": reply.additivity_residual[row],
            "detail": reply.detail,
            "method": _method_json(reply.method),
        },
        "timings": timings_json(reply.timings),
    }


def flat_row(reply: Reply, row: int, row_number: int) -> dict[str, Any]:
    """One row of a reply as cells of a CSV line, by column name; empty where there is nothing."""
    cells: dict[str, Any] = {"row": row_number, "decision_id": reply.decision_ids[row]}
    if reply.labels is not None:
        cells["label"] = _class_name(reply.classes, int(reply.labels[row]))
    if reply.probabilities is not None:
        cells |= {f"p_{name}": p for name, p in (_by_class(reply.classes, reply.probabilities[row]) or {}).items()}
    outputs = len(reply.base_values)
    marks = [name and f"[{name}]" for name in output_names(reply.classes, outputs)]
    phi = (
        np.full((len(reply.feature_names), outputs), np.nan) if reply.attributions is None else reply.attributions[row]
    )
    for output, mark in enumerate(marks):
        if reply.prediction is not None:
            cells[f"prediction{mark}"] = reply.prediction[row, output]
        cells[f"margin{mark}"] = reply.margin[row, output]
        cells[f"base_value{mark}"] = reply.base_values[output]
        for name, value in zip(reply.feature_names, phi[:, output], strict=True):
            cells[f"phi_{name}{mark}"] = "" if math.isnan(value) else value
    return cells | {"explanation": reply.statuses[row].value}


def decision_json(decision: Decision) -> dict[str, Any]:
    """One decision as recorded; attributions are by feature, one number for each output."""
    return {
        "decision_id": decision.decision_id,
        "decided_at": decision.decided_at.isoformat(),
        "model": {"name": decision.model_name, "version": decision.model_version, "sha256": decision.model_sha256},
        "input": dict(zip(decision.feature_names, decision.values, strict=True)),
        "margin": decision.margin,
        "probabilities": _by_class(decision.classes, decision.probabilities),
        "label": None if decision.label is None else _class_name(decision.classes, decision.label),
        "prediction": decision.prediction,
        "threshold": decision.threshold,
        "favourable_class": decision.favourable_class,
        "explanation": _explanation_json(decision.explanation, decision.feature_names),
        "timings": timings_json(decision.timings),
        "runtime": decision.runtime,
    }


def _explanation_json(explanation: Explanation, names: Sequence[str]) -> dict[str, Any]:
    phi = explanation.attributions
    return {
        "status": explanation.status.value,
        "attributions": None if phi is None else dict(zip(names, phi.tolist(), strict=True)),
        "base_values": explanation.base_values,
        "standard_error": _errors_json(names, explanation.standard_error),
        "additivity_residual": explanation.additivity_residual,
        "detail": explanation.detail,
        "method": _method_json(explanation.method),
        "explained_at": None if explanation.explained_at is None else explanation.explained_at.isoformat(),
    }


def _errors_json(
    names: Sequence[str], errors: Float64Array | None, row: int | None = None
) -> dict[str, list[float]] | None:
    """By feature, of attributions that are estimates: all of them (features, outputs), or of one row."""
    if errors is None or (errors.ndim == 3 and row is None):
        return None
    return dict(zip(names, (errors if row is None else errors[row]).tolist(), strict=True))


def _method_json(method: Method) -> dict[str, str]:
    return {"algorithm": method.algorithm, "variant": method.variant, "isa": method.isa}


def timings_json(timings: Timings) -> dict[str, float | None]:
    """Stages in microseconds, the budget in milliseconds."""
    return {
        "predict_us": timings.predict_us,
        "explain_us": timings.explain_us,
        "overlap_us": timings.overlap_us,
        "record_us": timings.record_us,
        "total_us": timings.total_us,
        "budget_ms": timings.budget_ms,
    }


def model_json(model: ModelStatus) -> dict[str, Any]:
    """One version of one model."""
    return {
        "model": model.model_name,
        "version": model.model_version,
        "ready": model.ready,
        "reason": model.reason,
        "sha256": model.model_sha256,
        "task": model.task,
        "signed_by": model.signed_by,
        "loaded_at": None if model.loaded_at is None else model.loaded_at.isoformat(),
        "feature_names": model.feature_names,
        "classes": model.classes,
        "allows_missing": model.allows_missing,
        "feature_kinds": model.feature_kinds,
    }


def models_table(models: Sequence[ModelStatus]) -> str:
    """One line for each version; what is wrong with one stands below the table."""
    rows = [
        [
            one.model_name,
            one.model_version,
            ("changed on disk" if one.reason else "ready") if one.ready else "refused",
            one.task or "-",
            str(len(one.feature_names)),
            ", ".join(one.classes) or "-",
            one.signed_by[:12] or "-",
            one.model_sha256[:12],
            "-" if one.loaded_at is None else _moment(one.loaded_at),
        ]
        for one in models
    ]
    header = ["model", "version", "state", "task", "features", "classes", "signed by", "sha256", "loaded at"]
    reasons = [as_message(f"{one.model_name} {one.model_version}: {one.reason}") for one in models if one.reason]
    return "\n".join([table(header, rows, right=[1, 4]), *([""] if reasons else []), *reasons])


def decision_text(decision: Decision, labels: Mapping[str, str] | None = None, top: int | None = None) -> str:
    """One decision in full, for a case worker.

    Args:
        decision: as recorded.
        labels: readable names of features, by feature name; names not in it stand for themselves.
        top: how many features to list; ``None`` for all that weigh anything.
    """
    facts = [["decision", decision.decision_id], ["decided at", _moment(decision.decided_at)], *_outcome(decision)]
    facts.append(["model", f"{decision.model_name} version {decision.model_version}"])
    facts.append(["sha256", decision.model_sha256])
    if decision.runtime:
        facts.append(["computed by", ", ".join(decision.runtime)])
    explanation = decision.explanation
    if explanation.attributions is None:
        facts.append(["explanation", f"{explanation.status.value} {explanation.detail}".rstrip()])
        return table(["", ""], facts).lstrip("\n")
    output = explained_output(explanation.attributions, decision.label, decision.probabilities)
    of_output = output_names(decision.classes, len(explanation.base_values))[output]
    phi = explanation.attributions[:, output]
    base, margin = float(explanation.base_values[output]), float(decision.margin[output])
    span = span_of(phi)
    of_margin, of_base, of_all = (_plus(one, decimals_for(span / 100)) for one in (margin, base, float(phi.sum())))
    facts.append(
        [
            f"margin of {of_output}" if of_output else "margin",
            f"{of_margin} = base value {of_base} and the contributions {of_all}",
        ]
    )
    facts.append(
        ["explanation", f"adds up to within {explanation.additivity_residual:.0e}, {explanation.method.algorithm}"]
    )
    if explanation.standard_error is not None:
        largest = float(explanation.standard_error[:, output].max())
        facts.append(["standard error", f"of each contribution at most {largest:.1g}: they are estimates"])
    shown = strongest(phi, top)
    weights = [signed(phi[index], span) for index in shown]
    widest = max(map(len, weights), default=0)
    rows = []
    for index, text in zip(shown, weights, strict=True):
        name = decision.feature_names[index]
        bar = "█" * max(1, round(_BAR_CELLS * abs(phi[index]) / span))
        weight = coloured(f"{text:>{widest}}  {bar}", phi[index])
        rows.append([(labels or {}).get(name, name), number(decision.values[index]), weight])
    return table(["", ""], facts).lstrip("\n") + "\n\n" + table(["feature", "value", "contribution"], rows, right=[1])


def _outcome(decision: Decision) -> list[list[str]]:
    """What was decided, and on what number."""
    if decision.label is None and decision.probabilities is not None:
        return [["probabilities", _listed(decision.classes, decision.probabilities)]]
    if decision.label is None or decision.probabilities is None:
        value = decision.margin if decision.prediction is None else decision.prediction
        return [["prediction", " ".join(f"{one:.6g}" for one in value)]]
    name = _class_name(decision.classes, decision.label)
    sign = 0 if decision.favourable_class is None else 1 if name == decision.favourable_class else -1
    lines = [["decided", coloured(name, sign)]]
    shown = 1 if len(decision.probabilities) == 2 else decision.label
    limit = "" if decision.threshold is None else f" (decided above {decision.threshold:g})"
    lines.append(
        ["probability", f"{decision.probabilities[shown]:.4f} of {_class_name(decision.classes, shown)}{limit}"]
    )
    return lines


def _listed(classes: Sequence[str], probabilities: Float32Array) -> str:
    return ", ".join(f"{_class_name(classes, index)} {p:.3f}" for index, p in enumerate(probabilities.tolist()))


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _class_name(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _by_class(classes: Sequence[str], values: Any) -> dict[str, float] | None:
    if values is None:
        return None
    return {_class_name(classes, index): value for index, value in enumerate(values.tolist())}
