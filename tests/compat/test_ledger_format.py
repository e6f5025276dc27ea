"""Today's code reads every past format of the ledger, bit for bit.

The fixture was written by the release that introduced its format (`make_ledger_v1.py`). Expected values stand here as
literals, so that a change of encoder and decoder together cannot pass unnoticed.
"""

from __future__ import annotations

import math
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from xai_service.ledger.entry import Runtime, decode_decision, decode_explanation
from xai_service.ledger.store import Ledger, NewEntry, Stored
from xai_service.types import ExplanationStatus, Method, Timings

CLASSIFICATION = bytes.fromhex(
    "0a1001890a5dac96774bbcceb302099a805710959adfa1e8e1beb6171a056c6f616e732201332a2000010203040506070809"
    "0a0b0c0d0e0f101112131415161718191a1b1c1d1e1f3206696e636f6d65320564c3a9627432036167653a0c0050c347efbe"
    "c07f0000008042040000a0bf4a080000403f0000803e500062067265667573656207617070726f766569000000000000e03f"
    "7207617070726f76657a4a10011a18000000000000f0bf000000000000d03f00000000000000802208000000000000e0bf3a"
    "0e706174685f646570656e64656e74420276314a046176783250e0ebe1a1e8e1beb6178201110a05302e312e301206312e32"
    "302e3018018a0124090000000000404240110000000000204440190000000000003e40210000000000002440"
)
LATE_1 = bytes.fromhex(
    "0a1001890a5db00070008000000000000001108094dbc3ebe1beb6171a0664656c6179732201312a201f1e1d1c1b1a191817"
    "161514131211100f0e0d0c0b0a09080706050403020100320864697374616e63653204686f75723a080000c03f0000204042"
    "080000e040000000415a080000e040000000417a5410022210000000000000f03f000000000000004029000000000000f87f"
    "321b6e6f742072656164792077697468696e20746865206275646765743a0e706174685f646570656e64656e74420276314a"
    "04617678328201110a05302e312e301206312e32302e3018018a0109090000000000404240"
)
LATE_2 = bytes.fromhex(
    "0a1001890a5db00070008000000000000002108094dbc3ebe1beb6171a0664656c6179732201312a201f1e1d1c1b1a191817"
    "161514131211100f0e0d0c0b0a09080706050403020100320864697374616e63653204686f75723a080000c03f0000204042"
    "080000e040000000415a080000e040000000417a5410022210000000000000f03f000000000000004029000000000000f87f"
    "321b6e6f742072656164792077697468696e20746865206275646765743a0e706174685f646570656e64656e74420276314a"
    "04617678328201110a05302e312e301206312e32302e3018018a0109090000000000404240"
)
AMENDMENT = bytes.fromhex(
    "0a1001890a5db0007000800000000000000110011a20000000000000f03f0000000000000040000000000000144000000000"
    "000010402210000000000000f03f00000000000000403a0e706174685f646570656e64656e74420276314a04617678325080"
    "a8c6a0efe1beb617"
)

FIRST = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
LATE = [uuid.UUID("01890a5d-b000-7000-8000-000000000001"), uuid.UUID("01890a5d-b000-7000-8000-000000000002")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy: opening a ledger writes beside it."""
    return Path(shutil.copy(Path(__file__).with_name("ledger_v1.sqlite"), tmp_path))


def test_stored_bytes_are_as_they_were_written(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.get(FIRST) == Stored(1, CLASSIFICATION, None)
        assert ledger.get(LATE[0]) == Stored(2, LATE_1, AMENDMENT)
        assert ledger.get(LATE[1]) == Stored(3, LATE_2, None)
        assert ledger.pending(10) == [(3, LATE[1])]
        assert (ledger.count(), ledger.pending_count()) == (3, 1)


def test_a_classification_says_what_it_said(path: Path) -> None:
    with Ledger(path) as ledger:
        decision = decode_decision(ledger.get(FIRST).data)
    assert decision.decision_id == FIRST
    assert decision.decided_at_ns == 1_688_000_000_123_456_789
    assert (decision.model_name, decision.model_version) == ("loans", "3")
    assert decision.model_sha256 == bytes(range(32))
    assert decision.feature_names == ("income", "débt", "age")
    assert decision.input.view(np.uint32).tolist() == [0x47C35000, 0x7FC0BEEF, 0x80000000]
    assert decision.margin.tolist() == [-1.25]
    assert decision.probabilities is not None
    assert decision.probabilities.tolist() == [0.75, 0.25]
    assert (decision.label, decision.prediction, decision.threshold) == (0, None, 0.5)
    assert (decision.classes, decision.favourable_class) == (("refuse", "approve"), "approve")
    assert decision.runtime == Runtime("0.1.0", "1.20.0", 1)
    assert decision.timings == Timings(36.5, 40.25, 30.0, 10.0)
    explanation = decision.explanation
    assert explanation.status is ExplanationStatus.COMPLETE
    assert explanation.phi is not None
    assert explanation.phi.view(np.uint64).tolist() == [[0xBFF << 52], [0x3FD << 52], [1 << 63]]
    assert explanation.base_values.tolist() == [-0.5]
    assert (explanation.residual, explanation.detail) == (0.0, "")
    assert explanation.method == Method("path_dependent", "v1", "avx2")
    assert explanation.explained_at_ns == 1_688_000_000_123_500_000


def test_a_deferred_regression_and_its_amendment_say_what_they_said(path: Path) -> None:
    with Ledger(path) as ledger:
        stored = ledger.get(LATE[0])
    decision = decode_decision(stored.data)
    assert decision.prediction is not None
    assert decision.prediction.tolist() == decision.margin.tolist() == [7.0, 8.0]
    assert (decision.probabilities, decision.label, decision.threshold) == (None, None, None)
    assert (decision.classes, decision.favourable_class) == ((), "")
    assert decision.timings == Timings(36.5, None, None, None)
    assert decision.explanation.status is ExplanationStatus.DEFERRED
    assert decision.explanation.phi is None
    assert decision.explanation.base_values.tolist() == [1.0, 2.0]
    assert math.isnan(decision.explanation.residual)
    assert decision.explanation.detail == "not ready within the budget"
    assert stored.amendment is not None
    decision_id, explanation = decode_explanation(stored.amendment)
    assert decision_id == LATE[0]
    assert explanation.status is ExplanationStatus.COMPLETE
    assert explanation.phi is not None
    assert explanation.phi.tolist() == [[1.0, 2.0], [5.0, 4.0]]
    assert explanation.base_values.tolist() == [1.0, 2.0]
    assert (explanation.residual, explanation.detail) == (0.0, "")
    assert explanation.explained_at_ns == 1_688_000_002_000_000_000


def test_an_old_ledger_goes_on(path: Path) -> None:
    new = NewEntry(uuid.UUID(int=1), b"new", pending=False)
    with Ledger(path) as ledger:
        assert ledger.amend(LATE[1], b"explained at last")
        assert not ledger.amend(LATE[0], b"once only")
        ledger.append([new])
    with Ledger(path) as ledger:
        assert ledger.get(LATE[1]) == Stored(3, LATE_2, b"explained at last")
        assert ledger.get(new.decision_id) == Stored(6, b"new", None)
        assert ledger.get(LATE[0]) == Stored(2, LATE_1, AMENDMENT)
        assert ledger.pending_count() == 0
