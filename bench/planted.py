"""`xai serve` with a fault planted into its hot path, to see that the guard alarms.

``python bench/planted.py FAULT serve …``. Faults: ``sleep`` 300 µs before every prediction; ``twice`` explains every
request twice.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from xai_service.cli import main
from xai_service.model.snapshot import ModelSnapshot

_SLEEP_S = 300e-6


def sleep() -> None:
    """Plants a sleep before each prediction."""
    predict = ModelSnapshot.predict

    def slowly(self: ModelSnapshot, rows: Any) -> Any:
        time.sleep(_SLEEP_S)
        return predict(self, rows)

    ModelSnapshot.predict = slowly  # type: ignore[method-assign]


def twice() -> None:
    """Plants a second explanation, before the one that counts."""
    explain, here = ModelSnapshot.explain, ModelSnapshot.explain_here

    def again(self: ModelSnapshot, pool: Any, rows: Any) -> Any:
        explain(self, pool, rows).wait(10.0)
        return explain(self, pool, rows)

    def again_here(self: ModelSnapshot, rows: Any) -> Any:
        here(self, rows)
        return here(self, rows)

    ModelSnapshot.explain = again  # type: ignore[method-assign]
    ModelSnapshot.explain_here = again_here  # type: ignore[method-assign]


FAULTS = {"sleep": sleep, "twice": twice}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    main()
