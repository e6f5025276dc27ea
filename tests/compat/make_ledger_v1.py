"""Write ``ledger_v1.sqlite``, the fixture of the ledger's format version 1.

Run once, with the release that introduced the format, and never again: its worth is that old code wrote it.

    python tests/compat/make_ledger_v1.py

`test_ledger_format.py` says what is in it, in values of its own.
"""

from __future__ import annotations

import math
import uuid
from pathlib import Path

import numpy as np

from xai_service.ledger.entry import Decision, Explanation, Runtime, encode_decision, encode_explanation
from xai_service.ledger.store import Ledger, NewEntry
from xai_service.types import ExplanationStatus, Method, Timings

FIXTURE = Path(__file__).with_name("ledger_v1.sqlite")

RUNTIME = Runtime("0.1.0", "1.20.0", 1)
METHOD = Method("path_dependent", "v1", "avx2")


def classification() -> Decision:
    return Decision(
        decision_id=uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057"),
        decided_at_ns=1_688_000_000_123_456_789,
        model_name="loans",
        model_version="3",
        model_sha256=bytes(range(32)),
        feature_names=("income", "débt", "age"),
        # 100000, a NaN with a payload, -0.0: their bits must survive.
        input=np.array([0x47C35000, 0x7FC0BEEF, 0x80000000], np.uint32).view(np.float32),
        margin=np.array([-1.25], np.float32),
        probabilities=np.array([0.75, 0.25], np.float32),
        label=0,
        prediction=None,
        classes=("refuse", "approve"),
        threshold=0.5,
        favourable_class="approve",
        explanation=Explanation(
            status=ExplanationStatus.COMPLETE,
            phi=np.array([[-1.0], [0.25], [-0.0]]),
            base_values=np.array([-0.5]),
            residual=0.0,
            detail="",
            method=METHOD,
            explained_at_ns=1_688_000_000_123_500_000,
        ),
        runtime=RUNTIME,
        timings=Timings(predict_us=36.5, explain_us=40.25, overlap_us=30.0, budget_ms=10.0),
    )


def regression(decision_id: uuid.UUID) -> Decision:
    return Decision(
        decision_id=decision_id,
        decided_at_ns=1_688_000_001_000_000_000,
        model_name="delays",
        model_version="1",
        model_sha256=bytes(reversed(range(32))),
        feature_names=("distance", "hour"),
        input=np.array([1.5, 2.5], np.float32),
        margin=np.array([7.0, 8.0], np.float32),
        probabilities=None,
        label=None,
        prediction=np.array([7.0, 8.0], np.float32),
        classes=(),
        threshold=None,
        favourable_class="",
        explanation=Explanation(
            status=ExplanationStatus.DEFERRED,
            phi=None,
            base_values=np.array([1.0, 2.0]),
            residual=math.nan,
            detail="not ready within the budget",
            method=METHOD,
            explained_at_ns=0,
        ),
        runtime=RUNTIME,
        timings=Timings(predict_us=36.5, explain_us=0.0, overlap_us=0.0, budget_ms=None),
    )


def amendment() -> Explanation:
    return Explanation(
        status=ExplanationStatus.COMPLETE,
        phi=np.array([[1.0, 2.0], [5.0, 4.0]]),
        base_values=np.array([1.0, 2.0]),
        residual=0.0,
        detail="",
        method=METHOD,
        explained_at_ns=1_688_000_002_000_000_000,
    )


def main() -> None:
    late = [uuid.UUID(f"01890a5d-b000-7000-8000-00000000000{n}") for n in (1, 2)]
    first = classification()
    with Ledger(FIXTURE) as ledger:
        ledger.append([NewEntry(first.decision_id, encode_decision(first), pending=False)])
        ledger.append([NewEntry(key, encode_decision(regression(key)), pending=True) for key in late])
        ledger.amend(late[0], encode_explanation(late[0], amendment()))
    FIXTURE.with_name(f"{FIXTURE.name}.lock").unlink()


if __name__ == "__main__":
    main()
