"""Tables as text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def grid(heading: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Returns a table; a cell for each of the heading's in every line."""
    if markdown:
        cells = [heading, ["---"] * len(heading), *lines]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)
    widths = [max(len(line[i]) for line in [heading, *lines]) for i in range(len(heading))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [heading, *lines]]
    return "\n".join("  ".join(line).rstrip() for line in padded)
