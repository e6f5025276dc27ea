"""A model card as one HTML page that stands alone: no scripts, no fonts, nothing to load.

Its content security policy allows its own style sheet, by digest, and nothing else, so that a name which escaped
escaping could still not run. It follows the reader's light or dark scheme, and prints as a document.
"""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from typing import TYPE_CHECKING

from xai_service.console.model_card import NOT_STATED
from xai_service.console.waterfall import UNPRINTABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xai_service.console.model_card import Fact, ModelCard, Section, Table

STYLE = (Path(__file__).parent / "card.css").read_text(encoding="utf-8")
_SHORT_CELL = 26  # longer cells wrap
_FOOTER = "Written by <code>xai inspect</code> from the bundle's manifest, once its files had the digests above."
_EMPTY = f'<span aria-hidden="true">&ndash;</span><span class="hidden">{NOT_STATED}</span>'
_WIDE = 4  # tables of as many columns take the page's width


def card_html(card: ModelCard) -> str:
    """Returns the page. What users wrote is escaped, and isolated from the direction of the text around it."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"Model card: {_text(card.name)}, version {_text(card.version)}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#content">Skip to the content</a>',
            '<div class="page">',
            *_head(card),
            '<main id="content">',
            *(line for section in card.sections for line in _section(section)),
            "</main>",
            f"<footer>{_FOOTER}</footer>",
            "</div>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _head(card: ModelCard) -> Iterator[str]:
    yield "<header>"
    yield '<p class="kind">Model card</p>'
    yield f'<h1>{_user(card.name)} <span class="version">version {_user(card.version)}</span></h1>'
    yield f'<p class="summary">{_user(card.summary)}</p>'
    if card.description:
        yield f'<p class="prose">{_user(card.description)}</p>'
    yield '<dl class="glance">'
    for label, value in card.glance:
        kind = ""
        if label == "Signature" and card.signature is not None:
            kind = ' class="good"' if card.signature.state == "verified" else ' class="bad"'
        yield f"<div><dt>{label}</dt><dd{kind}>{_value(value)}</dd></div>"
    yield "</dl>"
    yield '<nav aria-label="Sections"><ul>'
    for section in card.sections:
        yield f'<li><a href="#{section.key}">{_text(section.title)}</a></li>'
    yield "</ul></nav>"
    yield "</header>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{section.key}" class="{section.key}" aria-labelledby="{section.key}-title">'
    yield f'<h2 id="{section.key}-title">{_text(section.title)}</h2>'
    for text in section.text:
        yield f'<p class="prose">{_user(text)}</p>'
    if section.facts:
        yield '<dl class="facts">'
        for fact in section.facts:
            yield f"<dt>{_text(fact.label)}</dt><dd{_style(fact)}>{_fact(fact)}</dd>"
        yield "</dl>"
    for table in section.tables:
        yield from _table(table)
    yield "</section>"


def _style(fact: Fact) -> str:
    return ' class="prose"' if fact.style == "prose" else ""


def _fact(fact: Fact) -> str:
    return f"<code>{_text(fact.value)}</code>" if fact.style == "code" and fact.value else _value(fact.value)


def _value(value: str | None) -> str:
    return f'<span class="unstated">{NOT_STATED}</span>' if value is None else _user(value)


def _table(table: Table) -> Iterator[str]:
    caption = _text(table.caption)
    # Reachable by keyboard, or else a table wider than the window could not be scrolled with it.
    yield f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
    narrow = "" if len(table.columns) >= _WIDE else ' class="narrow"'
    yield f"<table{narrow}><caption>{caption}</caption>"
    heads = (f'<th scope="col"{_class(table, i, name)}>{_text(name)}</th>' for i, name in enumerate(table.columns))
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for first, *others in table.rows:
        cells = (f"<td{_class(table, i, cell)}>{_cell(cell)}</td>" for i, cell in enumerate(others, start=1))
        yield f'<tr><th scope="row">{_cell(first)}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _class(table: Table, column: int, cell: str) -> str:
    names = [
        name for name, holds in (("number", column in table.numeric), ("short", len(cell) <= _SHORT_CELL)) if holds
    ]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: str) -> str:
    return _user(cell) if cell else _EMPTY


def _text(text: str) -> str:
    return html.escape(UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text))


def _user(text: str) -> str:
    """Text that users wrote, which may run from right to left."""
    return f"<bdi>{_text(text)}</bdi>"
