"""The waterfall as a drawing: read back from its SVG, its geometry must be the attributions'."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_service.console.waterfall import DOWN, PAPER, UP, waterfall_svg

GOLDEN = Path(__file__).parents[2] / "golden" / "waterfall.svg"
SVG = "{http://www.w3.org/2000/svg}"
MINUS = "\N{MINUS SIGN}"
ROUNDING = 0.02  # coordinates are written with two decimals

LOAN: dict[str, Any] = {
    "feature_names": [
        *("debt_to_income", "loan_to_value", "credit_history", "income", "years_employed", "unverified"),
        *("mortgage_insurance_denied", "applicants", "public_record", "self_employed", "dependents", "price"),
    ],
    "values": [46.2, 0.95, math.nan, 3200, 0.5, 1, 0, 1, 0, 1, 2, 185000],
    "phi": [-0.82, -0.61, 0.44, -0.31, -0.22, -0.185, 0.11, 0.07, 0.04, -0.02, 0.013, 0.002],
    "base_value": 1.97,
    "margin": 0.48,
    "title": "Why was this application refused?",
    "subtitle": "decision 0123456789 · mortgage, version 3",
    "push_up": "towards approval",
    "push_down": "towards refusal",
}


def draw(phi: list[float], *, base_value: float = 0.0, **changes: Any) -> ET.Element:
    names = [f"feature_{j}" for j in range(len(phi))]
    arguments: dict[str, Any] = {
        "feature_names": names,
        "values": [float(j) for j in range(len(phi))],
        "title": "Title",
    }
    arguments |= {"margin": base_value + math.fsum(phi)} | changes
    return parse(waterfall_svg(phi=phi, base_value=base_value, **arguments))


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 -- what this package wrote


def steps(svg: ET.Element) -> list[ET.Element]:
    return svg.findall(f"{SVG}g[@class='step']")


def arrow(step: ET.Element) -> tuple[float, float]:
    """Where a row's arrow starts, and its tip."""
    polygon = step.find(f"{SVG}polygon")
    assert polygon is not None
    points = [float(point.split(",")[0]) for point in polygon.attrib["points"].split()]
    return points[0], points[2]


def words(element: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in element.iter(f"{SVG}text")]


def position(svg: ET.Element, label: str) -> float:
    """Where the text stands that starts with ``label``."""
    return next(float(t.attrib["x"]) for t in svg.iter(f"{SVG}text") if (t.text or "").startswith(label))


def number(text: str) -> float:
    return float(text.replace(MINUS, "-"))


def test_golden() -> None:
    """``XAI_UPDATE_GOLDEN=1`` rewrites the file; look at it in a browser before committing it."""
    svg = waterfall_svg(**LOAN)
    if os.environ.get("XAI_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(svg, encoding="utf-8")
    assert svg == GOLDEN.read_text(encoding="utf-8")


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.floats(-1e3, 1e3),
    st.integers(1, 12),
)
def test_arrows_chain_from_base_to_margin_in_proportion(phi: list[float], base: float, rows: int) -> None:
    svg = draw(phi, base_value=base, max_features=rows)
    arrows = [arrow(step) for step in steps(svg)]
    ranked = sorted(phi, key=lambda x: -abs(x))
    drawn = ranked[:rows] + ([math.fsum(ranked[rows:])] if len(phi) > rows else [])

    assert len(arrows) == len(drawn)
    for above, below in pairwise(arrows):
        assert above[0] == below[1]
    lengths = [end - start for start, end in arrows]
    unit = sum(map(abs, lengths)) / (sum(map(abs, drawn)) or 1.0)
    for length, contribution in zip(lengths, drawn, strict=True):
        assert length == pytest.approx(contribution * unit, abs=ROUNDING)
    # The dashed lines of base value and margin stand where the chain starts and ends.
    base_x, margin_x = [
        float(re.split("[M ]", path.attrib["d"])[1])
        for path in svg.iter(f"{SVG}path")
        if "stroke-dasharray" in path.attrib
    ]
    assert arrows[-1][0] == base_x
    assert arrows[0][1] == pytest.approx(margin_x, abs=ROUNDING)


@given(st.lists(st.floats(-1e4, 1e4), max_size=12), st.floats(-1e5, 1e5))
def test_ticks_are_round_margins_in_their_places(phi: list[float], base: float) -> None:
    svg = draw(phi, base_value=base)
    texts = list(svg.iter(f"{SVG}text"))
    axis_y = next(t.attrib["y"] for t in texts if t.text == "margin")
    line = [t for t in texts if t.attrib["y"] == axis_y and t.text != "margin"]
    ticks = [(number(t.text or ""), float(t.attrib["x"])) for t in line]

    assert len(ticks) >= 1
    assert [label for label, _ in ticks] == sorted({label for label, _ in ticks})
    gaps = [b - a for (a, _), (b, _) in pairwise(ticks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps) if gaps else [])
    moved = [
        (step, value) for step, value in zip(steps(svg), sorted(phi, key=lambda x: -abs(x)), strict=False) if value
    ]
    if moved and len(ticks) > 1:
        start, end = arrow(moved[0][0])
        (first, first_x), (last, last_x) = ticks[0], ticks[-1]
        pixels = (last_x - first_x) / (last - first)
        assert end - start == pytest.approx(moved[0][1] * pixels, abs=0.05, rel=1e-3)


def test_rows_are_sorted_and_the_rest_is_one() -> None:
    svg = parse(waterfall_svg(**LOAN))
    rows = [words(step) for step in steps(svg)]
    assert rows[0] == ["debt_to_income = 46.2", f"{MINUS}0.82"]
    assert rows[2] == ["credit_history = missing", "+0.44"]
    assert rows[-1] == ["3 other features", f"{MINUS}0.01"]
    assert len(rows) == 10
    assert [words(step)[0] for step in steps(draw([1.0, -2.0, 2.0], max_features=2))] == [
        "feature_1 = 1",  # ties stay in the features' order
        "feature_2 = 2",
        "1 other feature",
    ]


def test_sign_direction_and_colour_agree() -> None:
    for phi, sign, colour in ((0.3, "+", UP), (-0.3, MINUS, DOWN)):
        (step,) = steps(draw([phi]))
        start, end = arrow(step)
        assert (end - start) * phi > 0
        assert words(step)[1] == f"{sign}0.300"
        polygon = step.find(f"{SVG}polygon")
        assert polygon is not None
        assert polygon.attrib["fill"] == colour


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_all_text_has_contrast() -> None:
    svg = parse(waterfall_svg(**LOAN))
    inks = {text.attrib["fill"] for text in svg.iter(f"{SVG}text")} | {UP, DOWN}
    for ink in inks - {PAPER}:
        assert (luminance(PAPER) + 0.05) / (luminance(ink) + 0.05) >= 4.5


@given(st.text(), st.text(), st.text(), st.text())
def test_any_text_is_well_formed(name: str, title: str, subtitle: str, push: str) -> None:
    svg = draw([1.0], feature_names=[name], title=title, subtitle=subtitle, push_up=push)
    assert {element.tag for element in svg.iter()} == {
        SVG + tag for tag in ("svg", "title", "desc", "rect", "text", "tspan", "path", "polygon", "g")
    }


def test_text_from_outside_stays_text() -> None:
    attack = '<script>alert("x")</script>'
    svg = waterfall_svg(
        feature_names=[attack],
        values=[1.0],
        phi=[1.0],
        base_value=0,
        margin=1,
        title=f"{attack} & more",
        subtitle=attack,
        push_up=attack,
        push_down=attack,
    )
    assert "<script" not in svg
    assert parse(svg).findtext(f"{SVG}title") == f"{attack} & more"
    assert f"{attack} = 1" in words(parse(svg))


@pytest.mark.parametrize("hidden", ["\0", "\x1b", "\ud800", "\ufffe", "\u202e", "\u2066"])
def test_unprintable_characters_show(hidden: str) -> None:
    svg = draw([1.0], feature_names=[f"a{hidden}b"])
    assert "a\N{REPLACEMENT CHARACTER}b = 0" in words(svg)


@pytest.mark.parametrize("letter", ["a", "W", "i", "信"])
def test_long_names_are_shortened_and_kept_whole_for_readers(letter: str) -> None:
    name = letter * 100
    svg = draw([1.0], feature_names=[name], values=[math.nan])
    label = words(steps(svg)[0])[0]
    assert re.fullmatch(f"{letter}{{10,99}}… = missing", label)
    assert name in (svg.findtext(f"{SVG}desc") or "")
    assert len(waterfall_svg(**LOAN | {"feature_names": ["x" * 10**6] * 12})) < 30_000


def test_screen_readers_get_the_whole_story() -> None:
    svg = parse(waterfall_svg(**LOAN))
    assert svg.attrib["role"] == "img"
    title, description = svg.find(f"{SVG}title"), svg.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert svg.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert title.text == LOAN["title"]
    assert (description.text or "").startswith(
        "From the base value 1.97 to the margin 0.48. "
        f"debt_to_income = 46.2: {MINUS}0.82, towards refusal. loan_to_value = 0.95: {MINUS}0.61, towards refusal. "
        "credit_history = missing: +0.44, towards approval."
    )


def test_two_charts_on_a_page_do_not_share_ids() -> None:
    def ids(svg: ET.Element) -> set[str]:
        return {element.attrib["id"] for element in svg.iter() if "id" in element.attrib}

    one, other = draw([1.0]), draw([1.1])
    assert len(ids(one)) == len(ids(other)) == 2
    assert not ids(one) & ids(other)


def test_nothing_to_load_and_nothing_to_run() -> None:
    svg = waterfall_svg(**LOAN)
    assert not re.search(r"style=|<style|href|url\(|@import|\son\w+=", svg)
    assert svg.count("http") == 1  # the namespace


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "missing"),
        (0.1, "0.1"),
        (0.10000000149011612, "0.1"),  # float32 0.1
        (-0.0, "0"),
        (185000, "185000"),
        (123456789, "123456789"),
        (1234567.5, "1234567.5"),
        (-2.5, f"{MINUS}2.5"),
        (1e-7, f"1e{MINUS}07"),
        (1e30, "1e+30"),
        (math.inf, "inf"),
        ("Zürich <b>", "Zürich <b>"),
    ],
)
def test_raw_values(value: float | str, shown: str) -> None:
    assert words(steps(draw([1.0], values=[value]))[0])[0] == f"feature_0 = {shown}"


def test_small_contributions_keep_their_digits() -> None:
    labels = [words(step)[1] for step in steps(draw([1250.0, -610.0, 0.3, -0.004, 1e-9, 0.0], base_value=12.5))]
    assert labels == ["+1250", f"{MINUS}610", "+0.3", f"{MINUS}0.004", f"+1e{MINUS}09", "0"]


@pytest.mark.parametrize(
    ("phi", "base"),
    [([], 0.5), ([0.0, 0.0], 0.5), ([5e-324], 0.0), ([1e-9], 1e8), ([1e300, -1e300], 1.0), ([1.0], -1e12)],
)
def test_extremes_are_drawn(phi: list[float], base: float) -> None:
    svg = draw(phi, base_value=base)
    assert len(steps(svg)) == len(phi)
    assert 0 < position(svg, "base value") < 860
    assert 0 < position(svg, "margin ") < 860


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"values": [1.0]}, "2, 1 and 2"),
        ({"feature_names": ["a"]}, "1, 2 and 2"),
        ({"phi": [1.0, math.nan]}, r"phi\[1\] is nan"),
        ({"phi": [-math.inf, 1.0]}, r"phi\[0\] is -inf"),
        ({"phi": [1.7e308, 1.7e308]}, "finite"),
        ({"base_value": math.nan}, "base_value nan"),
        ({"margin": math.inf}, "margin inf"),
        ({"max_features": 0}, "max_features is 0"),
    ],
)
def test_refuses_what_cannot_be_drawn(changes: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {
        "feature_names": ["a", "b"],
        "values": [1.0, 2.0],
        "phi": [1.0, 2.0],
        "base_value": 0.0,
        "margin": 3.0,
    }
    with pytest.raises(ValueError, match=says):
        waterfall_svg(**good | {"title": "Title"} | changes)
