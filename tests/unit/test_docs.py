"""The docs are true: settings, statuses, commands and links are held against the code."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import click
import pytest
from google.rpc import code_pb2

from xai_service.cli import main
from xai_service.config import ServiceConfig
from xai_service.wire.status import CODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def _table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the Markdown table whose header starts with ``first_column``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_every_setting_is_documented_as_it_is():
    documented = [[cell.strip() for cell in row] for row in _table(OPERATIONS, "flag")]
    expected = []
    for field in dataclasses.fields(ServiceConfig):
        default = field.default
        shown = "required" if default is dataclasses.MISSING else default
        shown = " ".join(shown) if isinstance(shown, tuple) else str(shown)
        flag, variable = field.name.replace("_", "-"), field.name.upper()
        expected.append([f"`--{flag}`", f"`XAI_{variable}`", shown, field.metadata["help"]])
    assert documented == expected


@pytest.mark.parametrize("name", ["log_level", "log_format"])
def test_how_to_log_is_documented_as_it_is(name):
    (option,) = (p for p in main.commands["serve"].params if p.name == name)
    section = OPERATIONS.split("## Logs")[1].split("\n## ")[0]
    assert f"`{option.opts[0]}` (`{option.envvar}`)" in section
    assert all(f"`{choice}`" in section for choice in option.type.choices)
    assert f"`{option.default}` (the default)" in section


def test_every_status_is_documented_as_it_is():
    documented = {row[0].strip("`"): row[1] for row in _table(OPERATIONS, "error")}
    leaves = {kind for kind in CODES if not kind.__subclasses__() and kind.__name__ != "PackRefused"}
    assert documented == {kind.__name__: code_pb2.Code.Name(CODES[kind]) for kind in leaves}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_make_serve_keeps_repositories_apart(tmp_path):
    """Another repository has a ledger of its own, beside it, and is not made by running the demo."""

    def recipe(*arguments):
        command = ["make", "--dry-run", "--no-print-directory", "serve", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.replace("\\\n", " ").splitlines()

    assert recipe()[-1].endswith("serve --repository var/demo/models --ledger var/demo/ledger.sqlite")
    assert any("xai demo" in line for line in recipe())
    other = recipe(f"REPO={tmp_path}/models/")
    assert other[-1].endswith(f"serve --repository {tmp_path}/models/ --ledger {tmp_path}/ledger.sqlite")
    assert not any("xai demo" in line for line in other)


def test_the_readmes_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    seen = set()
    for program, name, *arguments in _commands():
        if program == "make":
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
        else:
            assert program == ".venv/bin/xai"
            command = main.commands[name]
            # Parses the arguments as the command line would; files need not exist.
            for option in (a for a in arguments if a.startswith("--")):
                assert any(option in p.opts for p in command.params), (name, option)
            required = {p.opts[0] for p in command.params if isinstance(p, click.Option) and p.required}
            assert required <= set(arguments), name
        seen.add(f"{Path(program).name} {name}")
    assert {"make demo", "make test", "xai pack", "xai serve", "xai predict", "xai decision"} <= seen


@pytest.mark.parametrize("block", _blocks("python"))
def test_the_readmes_python_runs(block, loans, loan_server, loan_repository):
    rows = loans.held_out.iloc[:2]
    code = textwrap.dedent(block).replace("127.0.0.1:8001", loan_server)
    code = code.replace("models/loan", str(loan_repository / "loan"))
    exec(compile(code, "README.md", "exec"), {"rows": rows})  # noqa: S102 (our own README)


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_the_docs_name_exist(document):
    named = re.findall(
        r"`((?:xai_service|native|tests|protos|docs|bench|tools|wire|model|ledger)/[\w./]+)`", document.read_text()
    )
    for name in named:
        assert any((base / name).exists() for base in (ROOT, ROOT / "xai_service")), name


def test_every_make_target_is_explained_and_every_command_has_help():
    makefile = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r"^#   make ([\w-]+) ", makefile, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
    assert explained == phony
    for name, command in main.commands.items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (name, parameter.name)
