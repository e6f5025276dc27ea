"""A model card as text: in short for a terminal, in full as Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from xai_service.console.model_card import NOT_STATED
from xai_service.console.waterfall import UNPRINTABLE
from xai_service.report import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xai_service.console.model_card import Fact, ModelCard, Section, Table

WIDTH = 100
_TABLE_ROWS = 12
_CELL = 32
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
# What CommonMark and GitHub's tables read as more than itself, anywhere and at the start of a line.
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&#$]")
_OPENING = re.compile(r"^(?=[-+=]|\d+[.)])")


def card_terminal(card: ModelCard) -> str:
    """Returns the card for a terminal of 100 columns; long tables and texts are cut short, and say so."""
    parts = [f"{card.name} version {card.version}\n{_wrapped(card.summary, '')}"]
    if card.description:
        parts.append(_wrapped(_shortened(card.description, 400), ""))
    parts += [_terminal_section(section) for section in card.sections if section.key != "limits"]
    return _printable("\n\n".join(parts))


def _terminal_section(section: Section) -> str:
    lines = [section.title.upper(), *(_wrapped(text, "  ") for text in section.text)]
    widest = max((len(fact.label) for fact in section.facts), default=0)
    lines += [_terminal_fact(fact, widest) for fact in section.facts]
    for one in section.tables:
        lines += ["", *("  " + line for line in _terminal_table(one).splitlines())]
    return "\n".join(lines)


def _terminal_fact(fact: Fact, widest: int) -> str:
    value = NOT_STATED if fact.value is None else _shortened(fact.value, 400)
    first = f"  {fact.label:<{widest}}  "
    return _wrapped(value, first, " " * len(first))


def _terminal_table(one: Table) -> str:
    # Columns in which nobody stated anything would only make the lines longer.
    kept = [i for i in range(len(one.columns)) if any(row[i] for row in one.rows)]
    rows = [[_shortened(row[i], _CELL) for i in kept] for row in one.rows[:_TABLE_ROWS]]
    right = [place for place, i in enumerate(kept) if i in one.numeric]
    text = table([one.columns[i] for i in kept], rows, right)
    more = len(one.rows) - len(rows)
    return text + (f"\n{_ELLIPSIS} and {more:,} more; --markdown shows all" if more else "")


def _wrapped(text: str, first: str, others: str | None = None) -> str:
    others = first if others is None else others
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=others)


def _shortened(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + _ELLIPSIS


def card_markdown(card: ModelCard) -> str:
    """Returns the card as GitHub-flavoured Markdown. What users wrote is escaped: it stays text."""
    lines = [f"# Model card: {_escaped(card.name)}, version {_escaped(card.version)}", "", _paragraphs(card.summary)]
    if card.description:
        lines += ["", _paragraphs(card.description)]
    for section in card.sections:
        lines += ["", f"## {section.title}", *(f"\n{_paragraphs(text)}" for text in section.text)]
        if section.facts:
            lines += [
                "",
                *_markdown_table(("", ""), [(fact.label, _markdown_value(fact)) for fact in section.facts], ()),
            ]
        for one in section.tables:
            cells = [tuple(_cell(cell) for cell in row) for row in one.rows]
            lines += ["", f"**{one.caption}**", "", *_markdown_table(one.columns, cells, one.numeric)]
    return _printable("\n".join(lines) + "\n")


def _markdown_value(fact: Fact) -> str:
    if fact.value is None:
        return f"*{NOT_STATED}*"
    return f"`{fact.value}`" if fact.style == "code" and fact.value.isalnum() else _cell(fact.value)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---:' if i in numeric else '---' for i in range(len(header)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(text: str) -> str:
    return "<br>".join(_escaped(line.strip()) for line in text.splitlines() if line.strip())


def _paragraphs(text: str) -> str:
    lines = (_OPENING.sub("&#8203;", _escaped(line.strip())) for line in text.split("\n"))
    return "\n".join(lines)  # stripped, since four spaces would open a block of code


def _escaped(text: str) -> str:
    # As entities, since a backslash before "|" and "<" is read differently by different readers.
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)


def _printable(text: str) -> str:
    """Without what could steer a terminal, or turn around the text beside it."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
