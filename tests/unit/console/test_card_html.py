"""The page stands alone, reads in order, and nothing that users wrote becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from tests.unit.console.conftest import HOSTILE
from xai_service.console.card_html import STYLE, card_html
from xai_service.console.model_card import Signature, model_card

if TYPE_CHECKING:
    from xai_service.model.manifest import Manifest

VOID = {"meta"}
ALLOWED = {"html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "div"}
ALLOWED |= {"h1", "h2", "p", "a", "span", "bdi", "code", "dl", "dt", "dd", "ul", "li"}
ALLOWED |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """What a browser makes of the page: its elements and its text. Fails where elements are not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key == name]


def page(manifest: Manifest, signature: Signature | None = None) -> Page:
    return Page(card_html(model_card(manifest, "98" * 32, signature)))


def test_everything_on_the_card_is_on_the_page(stated: Manifest) -> None:
    card = model_card(stated, "98" * 32)
    text = page(stated).text
    for section in card.sections:
        for said in (section.title, *section.text, *(fact.value or "" for fact in section.facts)):
            assert said in text
        for table in section.tables:
            assert all(cell in text for row in (table.columns, *table.rows) for cell in row)
    assert "Estimates defaults.\n\nUsed since 2029." in text
    assert "not stated" in page(stated).text


def test_nothing_is_loaded_and_nothing_runs(stated: Manifest, hostile: Manifest) -> None:
    for manifest in (stated, hostile):
        found = page(manifest)
        assert {tag for tag, _ in found.elements} <= ALLOWED
        assert not {"src", "style", "onload", "onclick"} & {key for _, one in found.elements for key in one}
        assert all(target.startswith("#") for target in found.attributes("href"))
    assert not re.search(r"url\(|@import", STYLE)


def test_the_policy_allows_the_style_sheet_alone(stated: Manifest) -> None:
    source = card_html(model_card(stated, "98" * 32))
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(value for value in page(stated).attributes("content") if "default-src" in value)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_names_are_text(hostile: Manifest) -> None:
    source = card_html(model_card(hostile, "98" * 32))
    assert "<script" not in source
    assert "\u202e" not in source
    shown = HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    found = Page(source)
    # Name, both classes' rules, owner, uses, data, code, settings, metric …: each is there, whole, as it was written.
    assert found.text.count(shown) > 15
    assert "x" * 512 in found.text
    assert source.count("<bdi>") == source.count("</bdi>") > 30


def test_the_page_is_accessible(stated: Manifest) -> None:
    found = page(stated)
    tags = [tag for tag, _ in found.elements]
    assert (tags.count("h1"), tags.count("main"), tags.count("nav")) == (1, 1, 1)
    assert ("html", {"lang": "en"}) in found.elements
    ids = found.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {target.removeprefix("#") for target in found.attributes("href")} <= set(ids)
    assert set(found.attributes("aria-labelledby")) <= set(ids)
    assert tags.count("table") == tags.count("caption")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in found.elements if tag == "th")
    # An empty cell is a dash to the eye and words to a screen reader.
    assert tags.count("td") > found.text.count("\N{EN DASH}not stated") > 0


@pytest.mark.parametrize(("state", "kind"), [("verified", "good"), ("unverified", "bad"), ("none", "bad")])
def test_the_signature_is_seen_at_once(state: str, kind: str, stated: Manifest) -> None:
    source = card_html(model_card(stated, "98" * 32, Signature(state, "words", None)))  # type: ignore[arg-type]
    assert f'<dt>Signature</dt><dd class="{kind}"><bdi>words</bdi></dd>' in source


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "muted", "accent", "good", "bad"])
@pytest.mark.parametrize("ground", ["paper", "wash"])
def test_contrast(ink: str, ground: str, scheme: int) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5."""
    block = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
