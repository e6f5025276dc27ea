"""Triton's and KServe's own clients, unchanged, against a real server; each in a process of its own.

They bring the protocol's messages themselves, which one process cannot hold twice: `make clients` makes their
environment.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
import xgboost as xgb

from tests.conftest import ROOT, serving
from xai_service.model.costs import Pace

CLIENTS = ROOT / "tests/clients"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/protocols.md").read_text(), re.MULTILINE | re.DOTALL)
PYTHON = ROOT / ".venv/clients/bin/python"

clients = pytest.mark.skipif(not PYTHON.exists(), reason="`make clients` installs Triton's and KServe's")


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


@clients
@pytest.mark.parametrize("check", ["infers", "tells", "refuses", "streams", "awaits"])
def test_tritonclient(check, served):
    run(CLIENTS / "triton_calls.py", check, *served)


@clients
@pytest.mark.parametrize("check", ["infers", "tells", "refuses"])
def test_kserves_client(check, served):
    run(CLIENTS / "kserve_calls.py", check, *served)


@clients
def test_the_docs_examples_for_tritons_client_run(served, tmp_path):
    """The blocks of docs/protocols.md, one after the other as they stand there, and what they are to come to."""
    address, wanted = served
    blocks = [block for block in BLOCKS if "xai_service" not in block]
    assert len(blocks) == 3
    script = tmp_path / "protocols.py"
    script.write_text(
        "\n".join(
            [
                f"import numpy\nwanted = numpy.load({str(wanted)!r})\nrows = wanted['rows'].tolist()",
                # Neither the port nor, on a busy machine, the budget.
                *(
                    block.replace("127.0.0.1:8001", address).replace('budget_ms": 20', 'budget_ms": 2000')
                    for block in blocks
                ),
                "assert abs(shap - wanted['contributions']).max() < 1e-5",
                "assert [one.name for one in margin.get_response().outputs] == ['margin']",
            ]
        )
    )
    run(script)


def test_the_docs_example_of_a_stream_runs(served, loans, capsys):
    (block,) = (block for block in BLOCKS if "xai_service" in block)
    code = block.replace("127.0.0.1:8001", served[0])
    names = {"rows": loans.held_out.to_numpy(np.float32)[:40]}
    exec(compile(code, "docs/protocols.md", "exec"), names)  # noqa: S102 (our own documentation)
    assert names["reply"].margin.shape == (1, 1)
    assert capsys.readouterr().out == ""
