"""Triton's and KServe's own clients, unchanged, against a real server; each in a process of its own.

They bring the protocol's messages themselves, which one process cannot hold twice: `make clients` makes their
environment.
"""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import xgboost as xgb

from tests.conftest import ROOT, serving
from xai_service.model.costs import Pace

CLIENTS = ROOT / "tests/clients"
PYTHON = ROOT / ".venv/clients/bin/python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make clients` installs Triton's and KServe's")


@pytest.fixture(scope="module")
def served(loans, loan_repository, tmp_path_factory):
    """The address of ``loan``, and of ``broken``, which cannot be served; and what the library says of some rows."""
    folder = tmp_path_factory.mktemp("inference")
    shutil.copytree(loan_repository, folder / "models")
    shutil.copytree(loan_repository / "loan", folder / "models/broken")
    (folder / "models/broken/1/model.onnx").write_bytes(b"none")
    rows = loans.held_out.iloc[:8]
    matrix = xgb.DMatrix(rows)
    np.savez(
        folder / "wanted.npz",
        rows=rows.to_numpy(np.float32),
        probability=loans.booster.predict(matrix),
        contributions=loans.booster.predict(matrix, pred_contribs=True),
    )
    with pytest.MonkeyPatch.context() as patch, serving(folder / "models", folder / "ledger.sqlite") as server:
        # Whether what fits barely is begun depends on the machine; the clients ask for none or plenty.
        patch.setattr(Pace, "fits", lambda _pace, _explain_us, left_us: left_us > 1e5)
        yield server.addresses[0], folder / "wanted.npz"


def run(script, *arguments):
    done = subprocess.run([PYTHON, script, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("check", ["infers", "tells", "refuses", "streams", "awaits"])
def test_tritonclient(check, served):
    run(CLIENTS / "triton_calls.py", check, *served)


@pytest.mark.parametrize("check", ["infers", "tells", "refuses"])
def test_kserves_client(check, served):
    run(CLIENTS / "kserve_calls.py", check, *served)
