"""The README's shell lines, run for real: a model file and 3,000 rows of CSV become decisions that can be asked for."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb

ROOT = Path(__file__).resolve().parents[2]
ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
ROWS = 3000


def readme_commands():
    """By name, the arguments of each line that calls ``xai``."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return {words[1]: words[1:] for words in lines if words and words[0] == ".venv/bin/xai"}


@pytest.fixture
def folder(loans, tmp_path):
    """What the reader brings: ``model.ubj`` and ``rows.csv``, with a column that is no feature."""
    loans.booster.save_model(tmp_path / "model.ubj")
    rows = loans.features.assign(approve=loans.approved)
    pd.concat([rows, rows]).iloc[:ROWS].to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


def test_the_readmes_shell_lines_run(loans, folder):
    commands = readme_commands()
    assert list(commands) == ["pack", "serve", "predict", "decision"]
    program = [sys.executable, "-m", "xai_service.cli"]
    environment = os.environ | {"XAI_LISTEN": "unix:s.sock", "XAI_TARGET": "unix:s.sock"}  # instead of a port

    def xai(*arguments):
        command = [*program, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    assert xai(*commands["pack"]).stdout == "models/loan/1\n"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*program, *commands["serve"]], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert server.stdout.readline() == "listening on unix:s.sock\n"
        predicted = xai(*commands["predict"])
        assert "ignored: approve" in predicted.stderr
        rows = [line.split()[0] for line in predicted.stdout.splitlines() if ID.search(line)]
        ids = ID.findall(predicted.stdout)
        assert [int(row) for row in rows] == list(range(1, ROWS + 1))
        assert len(set(ids)) == ROWS

        # The last row's explanation may be deferred: it is asked for until it is there.
        command = [*(ID.sub(ids[-1], word) for word in commands["decision"]), "--wait", "60"]
        text = xai(*command).stdout
        assert ids[-1] in text
        assert "adds up to within" in text
        decision = json.loads(xai(*command, "--json").stdout)
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(30)
        server.stdout.close()
    assert ended == 0

    row = pd.concat([loans.features] * 2).iloc[[ROWS - 1]]
    native = loans.booster.predict(xgb.DMatrix(row), pred_contribs=True)[0]
    phi = [decision["explanation"]["attributions"][name][0] for name in loans.features.columns]
    np.testing.assert_allclose([*phi, decision["explanation"]["base_values"][0]], native, rtol=0, atol=1e-5)
    assert decision["timings"]["record_us"] is None
    assert (folder / "var/ledger.sqlite").is_file()

    log = (folder / "log").read_text().splitlines()
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) xai_service\.[\w.]+: .+")
    assert all(form.fullmatch(line) for line in log), log
    assert any(line.endswith("model loan version 1 is ready") for line in log)
