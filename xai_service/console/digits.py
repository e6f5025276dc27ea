"""How many digits a decision's numbers get: as many as its own scale needs, whether that is 1e-6 or 1e6."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"


def decimals_for(span: float) -> int:
    """Returns the decimals that show three digits of ``span``, the largest that is shown; two where it is 0."""
    return max(0, 2 - math.floor(math.log10(span))) if span else 2


def fixed(value: float, decimals: int) -> str:
    """Returns the number with fixed decimals, unless these would hide a small one or make a huge one unreadable."""
    size = abs(value)
    text = f"{size:.{decimals}f}" if size < 1e12 and decimals < 10 else f"{size:.9g}"
    if size and not float(text):
        text = f"{size:.2g}"
    return ("-" if value < 0 else "") + text


def as_written(value: float) -> str:
    """Returns a feature's value as people write it: integers and large numbers in full, else six digits."""
    if math.isnan(value):
        return "missing"
    if abs(value) < 1e15 and (abs(value) >= 1e6 or float(value).is_integer()):
        return f"{value + 0.0:.1f}".removesuffix(".0").replace("-", MINUS)
    return f"{value:.6g}".replace("-", MINUS)
