"""Compares the ratios of a benchmark's result with a stored baseline, and fails when one is worse beyond its noise.

::

    python bench/compare.py bench/baselines/guard.json RESULT.json              # exit code 1 when a ratio is worse
    python bench/compare.py bench/baselines/guard.json RESULT.json … --update   # these results become the baseline

Ratios only: times depend on the machine and on what else it does, ratios within one run hardly. A result is the JSON of
any benchmark here that has "bars" (`bench.bars.Bar`): each ratio with its median over rounds and the rounds' 10th and
90th percentiles. Bars in other units than × are left out. Of several results the median of medians counts.

The rule. A ratio is worse by w = baseline / value - 1 where more is better (target ≥), or value / baseline - 1 where
less is (≤), taken of the medians. It fails when w > max(K · spread, floor), where spread = (high - low) / (2 · median)
of the baseline: half of what the middle four fifths of its rounds span. K is 2, and the floor 15 %. A ratio of the
baseline that the result lacks fails too: nothing is proven by absence.

Kinds of machines (processor, instruction set, cores) have baselines of their own in the same file. On a kind that has
none it is refused (exit code 2), or compared with all others where `--other-machine` allows: then a ratio fails when it
is worse than every one of them by more than twice what they allow.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.tables import grid

SCHEMA = 1
NOISY = 0.25  # allowed to be worse: beyond it a baseline notices little
K, FLOOR = 2.0, 0.15
OTHER_MACHINE = 2.0  # times as much is allowed
HIGHER, LOWER = "higher", "lower"
_DIRECTIONS = {"≥": HIGHER, "≤": LOWER}
_ISAS = (("avx512f", "avx512"), ("avx2", "avx2"), ("asimd", "neon"))


class CannotCompare(Exception):
    """A file is not what it should be, or there is nothing to compare with; says what and what to do."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One ratio of one or several runs.

    Attributes:
        what: the comparison.
        model: title of the model.
        better: `HIGHER` or `LOWER`.
        median: over rounds; over runs, of the runs' medians.
        low: the rounds' 10th percentile; over runs, the median of those.
        high: the rounds' 90th percentile; likewise.
    """

    what: str
    model: str
    better: str
    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of what the middle four fifths span, as a share of the median."""
        return (self.high - self.low) / (2 * self.median)

    def worse(self, value: float) -> float:
        """By how much ``value`` is worse than this, as a share; negative where it is better."""
        return (self.median / value if self.better == HIGHER else value / self.median) - 1


Ratios = dict[tuple[str, str], Ratio]  # by what and model


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one kind of machine measured.

    Attributes:
        machine: its kind.
        commit: that was measured.
        date: of the last run.
        runs: how many.
        ratios: by what and model.
    """

    machine: str
    commit: str
    date: str
    runs: int
    ratios: Ratios


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one ratio.

    Attributes:
        state: "holds", "better" (by more than is allowed to be worse: the baseline is out of date), "WORSE", "MISSING",
            or "new" (the baseline lacks it).
        ratio: the baseline's, or the result's where it is new.
        value: the result's, or ``None``.
        worse: by how much; negative where it is better.
        allowed: how much worse it may be.
    """

    state: str
    ratio: Ratio
    value: float | None = None
    worse: float | None = None
    allowed: float | None = None


def kind_of(machine: dict[str, Any]) -> str:
    """Returns what machines of one kind share, of `bench.machine.describe`: processor, instruction set and cores."""
    isa = next((name for flag, name in _ISAS if flag in machine["flags"]), "baseline")
    return f"{machine['cpu']}, {isa}, {machine['cores']} cores"


def read_results(paths: Sequence[Path]) -> Baseline:
    """Returns the ratios of one or several runs on one kind of machine.

    Raises:
        CannotCompare: not the JSON of a benchmark, no ratios, or of different kinds of machines.
    """
    documents = [_load(path) for path in paths]
    runs: list[Ratios] = []
    for path, document in zip(paths, documents, strict=True):
        if document.get("schema") != SCHEMA or not isinstance(document.get("bars"), list):
            raise CannotCompare(
                f'{path}: a benchmark\'s result has "schema": {SCHEMA} and a list of "bars"; this has not'
            )
        try:
            found = [_ratio_of(bar) for bar in document["bars"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CannotCompare(f"{path}: a bar is not laid out as bench.bars.Bar is: {error!r}") from None
        runs.append({(ratio.what, ratio.model): ratio for ratio in found if ratio is not None})
        if not runs[-1]:
            raise CannotCompare(f"{path}: holds no ratio that was measured")
    try:
        kinds = {kind_of(document["machine"]) for document in documents}
        commits = {str(document["machine"]["commit"]) for document in documents}
        date = max(str(document["machine"]["date"]) for document in documents)
    except (KeyError, TypeError) as error:
        raise CannotCompare(
            f"{paths[0]}: the machine is not laid out as bench.machine describes it: {error!r}"
        ) from None
    if len(kinds) > 1:
        raise CannotCompare(f"the results are of different kinds of machines: {'; '.join(sorted(kinds))}")
    return Baseline(kinds.pop(), ", ".join(sorted(commits)), date, len(runs), _merged(runs))


def _ratio_of(bar: dict[str, Any]) -> Ratio | None:
    value, unit, better = bar["value"], bar.get("unit", "×"), _DIRECTIONS.get(bar["target"][0])
    if value is None or unit != "×" or better is None:
        return None
    ratio = Ratio(bar["what"], bar["model"], better, *(float(value[name]) for name in ("value", "low", "high")))
    if not (0 < ratio.low <= ratio.high < math.inf and 0 < ratio.median < math.inf):
        raise TypeError(f"{ratio.what}: {value} is no ratio with its 10th and 90th percentiles")
    return ratio


def _merged(runs: Sequence[Ratios]) -> Ratios:
    """What all runs have in common; a ratio that one of them lacks is not known well enough."""
    merged = {}
    for key, first in runs[0].items():
        same = [run[key] for run in runs if key in run]
        if len(same) == len(runs):
            # Medians of all three: one run on a machine that was busy must not blind the guard for good.
            middle, low, high = (median(getattr(r, name) for r in same) for name in ("median", "low", "high"))
            merged[key] = Ratio(first.what, first.model, first.better, middle, low, high)
    return merged


def read_baselines(path: Path) -> list[Baseline]:
    """Returns a baseline file's entries.

    Raises:
        CannotCompare: it is not there, or laid out otherwise.
    """
    document = _load(path)
    try:
        if document["schema"] != SCHEMA:
            raise CannotCompare(f"{path}: has schema {document['schema']}, and {SCHEMA} is what is known")
        return [
            Baseline(
                **{name: entry[name] for name in ("machine", "commit", "date", "runs")},
                ratios={(ratio["what"], ratio["model"]): Ratio(**ratio) for ratio in entry["ratios"]},
            )
            for entry in document["baselines"]
        ]
    except (KeyError, TypeError) as error:
        raise CannotCompare(f"{path}: is not laid out as a baseline is: {error!r}") from None


def write_baselines(path: Path, baselines: Sequence[Baseline]) -> None:
    """Writes a baseline file."""
    entries = [
        {**{k: v for k, v in asdict(one).items() if k != "ratios"}, "ratios": [asdict(r) for r in one.ratios.values()]}
        for one in sorted(baselines, key=lambda one: one.machine)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": SCHEMA, "baselines": entries}, indent=1, ensure_ascii=False) + "\n")


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise CannotCompare(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CannotCompare(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise CannotCompare(f"{path}: holds a {type(document).__name__}, not a JSON object")
    return document


def judge(baseline: Baseline, result: Baseline, *, k: float = K, floor: float = FLOOR) -> list[Verdict]:
    """Returns what became of every ratio of either, those of the baseline first."""
    verdicts = []
    for key, ratio in baseline.ratios.items():
        measured = result.ratios.get(key)
        if measured is None:
            verdicts.append(Verdict("MISSING", ratio))
            continue
        worse, allowed = ratio.worse(measured.median), max(k * ratio.spread, floor)
        if baseline.machine != result.machine:
            allowed *= OTHER_MACHINE
        state = "WORSE" if worse > allowed else "better" if worse < -allowed / (1 + allowed) else "holds"
        verdicts.append(Verdict(state, ratio, measured.median, worse, allowed))
    new = [ratio for key, ratio in result.ratios.items() if key not in baseline.ratios]
    return [*verdicts, *(Verdict("new", ratio, ratio.median) for ratio in new)]


def against(
    baselines: Sequence[Baseline], result: Baseline, *, other_machine: bool, k: float = K, floor: float = FLOOR
) -> tuple[list[Verdict], str]:
    """Returns the verdicts, and what was compared with.

    Raises:
        CannotCompare: none is of the result's kind of machine, and ``other_machine`` is not allowed.
    """
    same = [one for one in baselines if one.machine == result.machine]
    if not same and not (other_machine and baselines):
        known = "; ".join(one.machine for one in baselines) or "none"
        raise CannotCompare(
            f"there is no baseline of this kind of machine ({result.machine}), but of: {known}. Record one with "
            "--update, or compare all the same with --other-machine"
        )
    candidates = [(judge(one, result, k=k, floor=floor), one) for one in same or baselines]
    # Of other kinds, the one that it is most like: what is worse than that is worse than all.
    verdicts, one = min(candidates, key=lambda pair: (len(failing(pair[0])), _worst(pair[0])))
    how = "" if same else f" (another kind than this, {result.machine}, so twice as much is allowed)"
    return verdicts, f"{one.machine}, commit {one.commit[:12]}, {one.runs} runs{how}"


def _worst(verdicts: Sequence[Verdict]) -> float:
    return max((v.worse - v.allowed for v in verdicts if v.worse is not None and v.allowed is not None), default=0.0)


def failing(verdicts: Sequence[Verdict], *, partial: bool = False) -> list[Verdict]:
    """Returns those that are worse or, unless the result is meant to be partial, missing."""
    return [v for v in verdicts if v.state == "WORSE" or (v.state == "MISSING" and not partial)]


def table(verdicts: Sequence[Verdict]) -> str:
    """Returns a line for each ratio."""
    lines = []
    for v in verdicts:
        more = "more" if v.ratio.better == HIGHER else "less"
        worse = "-" if v.worse is None else f"{v.worse:+.1%}"
        baseline = "-" if v.state == "new" else f"{v.ratio.median:.3g}"
        value = "-" if v.value is None else f"{v.value:.3g}"
        allowed = "-" if v.allowed is None else f"{v.allowed:.1%}"
        lines.append([v.state, v.ratio.what, v.ratio.model, more, baseline, value, worse, allowed])
    heading = ["", "ratio", "model", "better", "baseline", "measured", "worse by", "allowed"]
    return grid(heading, lines)


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    p = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("baseline", type=Path, help="the baselines' file, such as bench/baselines/guard.json")
    p.add_argument("results", type=Path, nargs="+", metavar="RESULT.json", help="of runs on one kind of machine")
    p.add_argument("--update", action="store_true", help="make these the baseline of this kind of machine; keep others")
    p.add_argument("--other-machine", action="store_true", help="compare with another kind of machine's, if need be")
    p.add_argument("--partial", action="store_true", help="ratios that the result lacks are no failure")
    p.add_argument("--k", type=float, default=K, help=f"spreads that are allowed ({K:g})")
    p.add_argument("--floor", type=float, default=FLOOR, help=f"share that is always allowed ({FLOOR:g})")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0, 1 where a ratio is worse, 2 where nothing can be compared."""
    args = parser().parse_args(arguments)
    try:
        result = read_results(args.results)
        if args.update:
            others = read_baselines(args.baseline) if args.baseline.exists() else []
            write_baselines(args.baseline, [*(one for one in others if one.machine != result.machine), result])
            print(f"{args.baseline}: {len(result.ratios)} ratios of {result.runs} runs on {result.machine}")
            for ratio in result.ratios.values():
                if args.k * ratio.spread > NOISY:
                    print(f"  noisy: {ratio.what} ({ratio.model}) may be {args.k * ratio.spread:.0%} worse from now on")
            return 0
        verdicts, compared = against(
            read_baselines(args.baseline), result, other_machine=args.other_machine, k=args.k, floor=args.floor
        )
    except CannotCompare as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    print(f"against {compared}\n\n{table(verdicts)}")
    failed = failing(verdicts, partial=args.partial)
    print(f"\n{len(failed)} of {len(verdicts)} ratios fail." if failed else "\nNo ratio is worse beyond its noise.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
