"""Numbers keep their digits at any scale, and are never longer than a reader can take in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.console.digits import decimals_for, fixed


@pytest.mark.parametrize(
    ("value", "span", "text"),
    [
        (-1.12, 1.12, "-1.12"),
        (0.2, 1.12, "0.20"),
        (0.0031, 0.0042, "0.00310"),
        (0.0000042, 0.0031, "4.2e-06"),
        (5966043.4, 5966043.4, "5966043"),
        (-1.6e37, 1.6e37, "-1.6e+37"),
        (3.1e-15, 4e-15, "3.1e-15"),
        (0.0, 0.0, "0.00"),
    ],
)
def test_digits_suit_the_scale(value: float, span: float, text: str) -> None:
    assert fixed(value, decimals_for(span)) == text


@given(st.floats(1e-30, 1e30), st.floats(-1, 1))
def test_any_number_is_told_from_zero_and_near_enough(span: float, share: float) -> None:
    value = span * share
    text = fixed(value, decimals_for(span))
    assert len(text) <= 16
    assert (float(text) == 0) == (value == 0)
    assert abs(float(text) - value) <= 0.005 * span
