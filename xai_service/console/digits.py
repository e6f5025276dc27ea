"""How many digits a decision's numbers get: as many as its own scale needs, whether that is 1e-6 or 1e6."""

from __future__ import annotations

import math


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
