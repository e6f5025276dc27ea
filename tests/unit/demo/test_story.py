"""The demo itself, with a real server: what README promises a newcomer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from xai_service.cli import main
from xai_service.demo import data

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demo_as_json_twice(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--applicants", "4", "--json"])
        assert result.exit_code == 0, result.stderr
        runs.append(json.loads(result.stdout))
    first, second = runs
    assert [run["decision"]["model"]["version"] for run in runs] == ["1", "2"]
    assert first["model"]["held_out_auc"] == second["model"]["held_out_auc"]
    assert len(first["applicants"]) == 4
    decided = [one["decided"] for one in first["applicants"]]
    assert set(decided) == {"approved", "denied"}
    for one in (*first["applicants"], first["decision"]):
        explanation = one["explanation"]
        assert explanation["status"] == "complete"
        assert list(explanation["attributions"]) == [feature.name for feature in data.FEATURES]
        total = explanation["base_values"][0] + sum(phi[0] for phi in explanation["attributions"].values())
        assert total == pytest.approx(one["margin"][0], abs=1e-5)
    asked = first["decision"]
    assert asked["label"] == "denied"
    assert asked["decision_id"] == first["applicants"][decided.index("denied")]["decision_id"]
    assert [one["margin"] for one in first["applicants"]] == [one["margin"] for one in second["applicants"]]
    ids = {one["decision_id"] for run in runs for one in run["applicants"]}
    assert len(ids) == 8
    picture = ET.parse(first["waterfall"])  # noqa: S314 - we have just drawn it ourselves
    assert picture.getroot().tag.endswith("svg")


def test_the_demo_as_text(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    text = result.stdout
    assert max(map(len, text.replace(str(tmp_path), "var/demo").splitlines())) <= 110
    assert "\x1b" not in text
    assert text.count("\napplicant ") == 5
    assert "  denied  " in text
    assert "stopped by SIGTERM, exit code 0" in text
    decision_id = text.split("xai decision ")[1].split()[0]
    assert (tmp_path / f"waterfall-{decision_id}.svg").is_file()


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_server_says_is_shown_when_it_does_not_start(tmp_path: Path, *, as_json: bool) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), *(["--json"] if as_json else [])])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the server ended before it was ready (exit code 1)")
    assert "ledger.sqlite" in result.stderr
    assert not (as_json and result.stdout)
