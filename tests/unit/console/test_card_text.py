"""The card in a terminal and as Markdown, which a reader of Markdown takes for what was written."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from tests.unit.console.conftest import HOSTILE
from xai_service.console.card_text import WIDTH, card_markdown, card_terminal
from xai_service.console.model_card import model_card

if TYPE_CHECKING:
    from xai_service.model.manifest import Manifest


def rendered(manifest: Manifest) -> str:
    """What GitHub would make of it."""
    return (
        MarkdownIt("commonmark", {"html": False}).enable("table").render(card_markdown(model_card(manifest, "98" * 32)))
    )


def words(markup: str) -> str:
    """The text of HTML without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup.replace("&lt;br&gt;", "\n")))


def test_markdown_says_everything(stated: Manifest) -> None:
    text = words(rendered(stated))
    for section in model_card(stated, "98" * 32).sections:
        for said in (section.title, *section.text, *(fact.value or "not stated" for fact in section.facts)):
            assert said in text
        for table in section.tables:
            assert all(cell in text for row in (table.columns, *table.rows) for cell in row)


def test_markdown_of_hostile_names_is_text(hostile: Manifest) -> None:
    markup = rendered(hostile)
    tags = set(re.findall(r"<(\w+)", markup))
    assert tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "code"}
    assert words(markup).count(HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}")) > 15
    assert "x" * 512 in words(markup)
    # No cell was split by a bar in its text.
    for table in re.findall(r"<table>.*?</table>", markup, re.DOTALL):
        assert len({row.count("<td") for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)[1:]}) == 1


@pytest.mark.parametrize("text", ["- a", "+ a", "1. a", "2) a", "=====", "---", "# a", "> a", "    a", "a\n- b\n- c"])
def test_what_opens_a_block_in_markdown_opens_none(text: str, stated: Manifest) -> None:
    provenance = dataclasses.replace(stated.provenance, description=text)
    markup = rendered(dataclasses.replace(stated, provenance=provenance))
    description = markup.split("approved</p>")[1].split("<h2>")[0]
    assert set(re.findall(r"<(\w+)", description)) == {"p"}
    assert words(description).replace("\u200b", "").split() == text.split()


def test_a_terminal_shows_the_card_in_short(stated: Manifest) -> None:
    text = card_terminal(model_card(stated, "98" * 32))
    assert text.startswith(
        "loan version 7\nBinary classification: denied or approved\n\nEstimates defaults. Used since"
    )
    assert re.search(r"^  Owner +Credit Risk, Example Bank$", text, re.MULTILINE)
    assert re.search(r"^  income +Gross income \(USD\) +numeric .* ↑ rising, proven +no +no$", text, re.MULTILINE)
    assert "answers as XGBoost 3.2.0 does" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_terminal_shows_not_stated(unstated: Manifest) -> None:
    text = card_terminal(model_card(unstated, "98" * 32))
    assert re.search(r"^  Owner +not stated$", text, re.MULTILINE)
    assert "Immutable" not in text  # no empty column
    assert "price version 1" in text


def test_long_tables_are_cut_in_a_terminal_and_whole_in_markdown(stated: Manifest) -> None:
    many = tuple(dataclasses.replace(stated.features[0], name=f"feature{i}") for i in range(1500))
    card = model_card(dataclasses.replace(stated, features=many), "98" * 32)
    text = card_terminal(card)
    assert "feature11" in text
    assert "feature12" not in text
    assert "and 1,488 more; --markdown shows all" in text
    assert "feature1499" in card_markdown(card)


def test_a_terminal_is_not_steered(stated: Manifest) -> None:
    text = card_terminal(model_card(dataclasses.replace(stated, name="a\x1b]0;b\x07\x9bc"), "98" * 32))
    assert text.startswith("a\ufffd]0;b\ufffd\ufffdc version 7")


def test_a_terminal_bounds_hostile_names(hostile: Manifest) -> None:
    text = card_terminal(model_card(hostile, "98" * 32))
    assert max(map(len, text.splitlines())) <= 3 * WIDTH
    assert "\u202e" not in text
    assert len(text) < 20_000
