"""Decisions read alike at any scale of the margins: three digits of the largest contribution, few characters."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest

from tests.unit.fake_service import FakeService, served
from xai_service import report
from xai_service.client import Client, Decision, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = np.array([[2.0, 1.5, 30.0]], np.float32)


@pytest.fixture(scope="module")
def answers() -> Iterator[tuple[Reply, Decision]]:
    """Contributions 1, -3 and 0 on a base value of 1."""
    with served(FakeService()) as target, Client(target) as client:
        yield client.predict(ROWS, "loan"), client.decision("id-0")


@pytest.mark.parametrize(
    ("scale", "income", "debt", "margin"),
    [
        (1.0, "+1.00", "-3.00", "-1.0000 = base value +1.0000 and the contributions -2.0000"),
        (1e-3, "+0.00100", "-0.00300", "-0.0010000 = base value +0.0010000 and the contributions -0.0020000"),
        (2e6, "+2000000", "-6000000", "-2000000 = base value +2000000 and the contributions -4000000"),
        (1e36, "+1e+36", "-3e+36", "-1e+36 = base value +1e+36 and the contributions -2e+36"),
        (1e-12, "+1e-12", "-3e-12", "-1e-12 = base value +1e-12 and the contributions -2e-12"),
    ],
)
def test_digits_follow_the_decisions_scale(
    scale: float, income: str, debt: str, margin: str, answers: tuple[Reply, Decision]
) -> None:
    reply, decision = answers
    assert reply.attributions is not None
    assert decision.explanation.attributions is not None
    reply = dataclasses.replace(reply, attributions=reply.attributions * scale)
    assert click.unstyle(report.reasons(reply, 0, 3)) == f"debt 1.5 ↓ {debt}   income 2 ↑ {income}"
    explanation = dataclasses.replace(
        decision.explanation,
        attributions=decision.explanation.attributions * scale,
        base_values=decision.explanation.base_values * scale,
    )
    decision = dataclasses.replace(decision, explanation=explanation, margin=np.float64(decision.margin) * scale)
    text = click.unstyle(report.decision_text(decision))
    assert margin in text
    assert re.search(rf"^debt +1\.5 +↓ {re.escape(debt)}  █{{16}}$", text, re.MULTILINE)
    assert re.search(rf"^income +2 +↑ {re.escape(income)}  █{{5}}$", text, re.MULTILINE)


def test_nothing_that_weighs_anything(answers: tuple[Reply, Decision]) -> None:
    _, decision = answers
    explanation = dataclasses.replace(decision.explanation, attributions=np.zeros((3, 1)))
    assert "contributions +0.00" in report.decision_text(dataclasses.replace(decision, explanation=explanation))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Zürich", "Zürich"), ("\x1b[2Jgone", r"'\x1b[2Jgone'"), ("a\nb", r"'a\nb'"), ("x" * 100, "x" * 39 + "…")],
)
def test_strings_in_rows_move_no_cursor(text: str, shown: str, answers: tuple[Reply, Decision]) -> None:
    _, decision = answers
    decision = dataclasses.replace(decision, input_strings={1: text})
    assert f" {shown} " in click.unstyle(report.decision_text(decision))
    assert decision.values[1] == text
    assert decision.values[0] == decision.input[0]
    assert report.decision_json(decision)["input"]["debt"] == text
