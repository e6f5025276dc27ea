"""Times the kernel against its rivals and against the prediction, and says which bars hold.

Models are trained on first use and cached below ``var/bench``. Every contestant runs in a process of its own, pinned to
one core, single-threaded; they take turns, and ratios are taken round by round. Each call gets other rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from bench import bars, contest, machine, measure, models, peers, plot, report
from bench.contest import Failed, Remote

# Attributions in float32 lanes differ by 1e-6 of the largest; what is computed wrongly differs by far more.
AGREEMENT = 1e-4
QUICK_MODELS = ("xgb-100x6", "xgb-500x6", "lgb-500x31")
ALL_ISAS = ("avx512", "avx2", "portable")
ISAS = (bars.FAST, bars.REFERENCE)
RESULTS = contest.ROOT / "bench" / "results"


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    p = argparse.ArgumentParser(prog="kernel_bench.py", description=__doc__, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="about a minute: three models, short turns")
    p.add_argument("--models", type=_listed(models.MODELS), metavar="NAME,...", help=f"of {', '.join(models.MODELS)}")
    p.add_argument("--rivals", type=_listed(contest.RIVALS), metavar="NAME,...", help=f"of {', '.join(contest.RIVALS)}")
    p.add_argument("--isa", type=_listed(ALL_ISAS), metavar="NAME,...", help="force ours to these too (avx512,avx2)")
    p.add_argument("--rounds", type=_positive, help="turns of each contestant (default 15; quick: 3)")
    p.add_argument("--turn-ms", type=_positive, help="how long a turn is meant to take (default 200; quick: 40)")
    p.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the core to pin to (default: the last)")
    p.add_argument("--cache", type=Path, default=contest.ROOT / "var" / "bench", help="models and peers' environments")
    p.add_argument("--setup-peers", action="store_true", help="make the rivals' environments (pip, minutes) and stop")
    p.add_argument("--markdown", action="store_true", help="print the tables as Markdown, for docs/performance.md")
    p.add_argument("--plot", type=Path, metavar="FILE.svg", help="write a plot of the ratios")
    p.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write the results (default: below bench/results)"
    )
    p.add_argument("--keep", metavar="NAME", help="write them to bench/results/kept-NAME.json, which git keeps")
    p.add_argument("--check", action="store_true", help="exit with 1 unless every bar was measured and holds")
    return p


def _listed(known: Sequence[str] | Any) -> Any:
    def names(text: str) -> tuple[str, ...]:
        wanted = tuple(name for name in text.split(",") if name)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return wanted

    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


class Run:
    """One run: the contestants' processes, and what was found.

    Attributes:
        results: times, and who was left out.
        models: shapes, parity and versions by name.
        agreement: how far each contestant's attributions are from ours.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._cache = args.cache.resolve()
        isas = ISAS if args.isa is None else args.isa
        entries = [contest.RIVALS[name] for name in (contest.RIVALS if args.rivals is None else args.rivals)]
        self.results = bars.Results(rivals=tuple(entry.name for entry in entries), isas=isas)
        self.models: dict[str, Any] = {}
        self.agreement: list[dict[str, Any]] = []
        self.contestants: dict[str, Any] = {}
        self._ours, self._floor, *self._forced = (
            self._remote(entry)
            for entry in (contest.OURS_ENTRY, contest.FLOOR_ENTRY, *(contest.forced(isa) for isa in isas))
        )
        self._rivals = [self._remote(entry) for entry in entries]
        self._pools = [self._remote(entry) for entry in contest.POOL_ENTRIES]

    def _remote(self, entry: contest.Entry) -> Remote:
        return Remote(entry, self._cache / "peers", self._args.core)

    def close(self) -> None:
        """Ends the contestants' processes."""
        for remote in (self._ours, self._floor, *self._forced, *self._rivals, *self._pools):
            remote.close()

    def model(self, name: str) -> None:
        """Measures one model in every way that is asked of it."""
        spec = models.MODELS[name]
        try:
            folder = models.prepare(spec, self._cache, say)
        except (models.ParityFailed, ModuleNotFoundError) as error:
            say(f"{spec.title}: NOT TIMED: {error}")
            self.results.skipped[name, bars.PATH, contest.OURS] = f"not timed: {error}"
            return
        self.models[name] = json.loads((folder / "info.json").read_text())
        self._mode(name, folder, bars.PATH, [self._ours, *self._forced, self._floor, *self._rivals], 0)
        if name == "xgb-500x6":
            shap = [remote for remote in self._rivals if remote.name == "shap"]
            self._mode(name, folder, bars.INTERVENTIONAL, [self._ours, *shap], bars.BACKGROUND)
            self._workers(name, folder)

    def overhead(self) -> None:
        """Measures the call alone."""
        folder = models.prepare_stump(self._cache)
        self._times(models.STUMP, bars.PATH, self._loaded(models.STUMP, folder, bars.PATH, [self._ours], 0), (1,))

    def _mode(self, name: str, folder: Path, mode: str, contestants: Sequence[Remote], background: int) -> None:
        ready = self._loaded(name, folder, mode, contestants, background)
        ready = self._agree(name, mode, ready)
        if self._ours in ready and name == "xgb-500x6":
            try:
                times = self._ours.compile(5 if self._args.quick else 15)
                series = {contest.OURS: measure.Series((times,), 1)}
                self.results.series[name, f"{bars.COMPILE} {mode}", 0] = series
            except Failed as error:
                self._leave_out(name, f"{bars.COMPILE} {mode}", contest.OURS, str(error))
        elif name == "xgb-500x6":
            why = self.results.why_not(name, mode, contest.OURS)
            self.results.skipped[name, f"{bars.COMPILE} {mode}", contest.OURS] = why
        self._times(name, mode, ready, (1, bars.BATCH))

    def _workers(self, name: str, folder: Path) -> None:
        ready = self._loaded(name, folder, "workers", self._pools, 0)
        self._times(name, "workers", ready, (bars.BATCH,))

    def _loaded(
        self, name: str, folder: Path, mode: str, contestants: Sequence[Remote], background: int
    ) -> list[Remote]:
        ready = []
        for remote in contestants:
            try:
                remote.load(folder, background)
            except Failed as error:
                self._leave_out(name, mode, remote.name, str(error))
                continue
            ready.append(remote)
            self.contestants.setdefault(remote.name, {"detail": remote.detail, "python": remote.python})
        return ready

    def _agree(self, name: str, mode: str, ready: Sequence[Remote]) -> list[Remote]:
        """Compares attributions with ours and margins with their sums; contestants that cannot answer are left out."""
        rows = 8 if self._args.quick else 20
        answers, base = {}, None
        kept = []
        for remote in ready:
            try:
                answers[remote.name], its_base = remote.check(rows)
            except Failed as error:
                self._leave_out(name, mode, remote.name, str(error))
                continue
            base = its_base if remote is self._ours else base
            kept.append(remote)
        margins = answers.pop(contest.FLOOR, None)
        ours = answers.get(contest.OURS)
        if ours is None:
            return kept
        entry: dict[str, Any] = {"model": name, "mode": mode, "rows": rows, "difference_of_largest": {}}
        if margins is not None and base is not None:
            gap = np.abs(ours.sum(axis=1) + base - margins[:, 0]).max()
            entry["additivity_of_largest_margin"] = float(gap / np.abs(margins).max())
        agreeing = 0
        for other, phi in answers.items():
            difference = float(np.abs(phi - ours).max() / np.abs(ours).max()) if phi.shape == ours.shape else np.inf
            entry["difference_of_largest"][other] = difference if np.isfinite(difference) else None
            if other in self.results.rivals:
                agreeing += difference <= AGREEMENT
                if not difference <= AGREEMENT:
                    say(f"{name} {mode}: {other}'s attributions differ by {difference:.2g} of the largest; not counted")
                    self.results.wrong.add((name, mode, other))
        if not agreeing:
            say(f"{name} {mode}: no rival agrees with our attributions, so that no bar of it can hold")
            self.results.unproven.add((name, mode))
        self.agreement.append(entry)
        return kept

    def _times(self, name: str, mode: str, ready: Sequence[Remote], sizes: Sequence[int]) -> None:
        quick = self._args.quick
        for rows in sizes:
            if not ready:
                return
            say(f"{name} {mode}, {rows:,} rows: {', '.join(remote.name for remote in ready)} ...")
            self.results.series[name, mode, rows] = measure.interleave(
                ready,
                rows=rows,
                rounds=self._args.rounds or (3 if quick else 15),
                turn_s=(self._args.turn_ms or (40 if quick else 200)) / 1e3,
                longest_call_s=0.5 if quick else 10.0,
                failed=lambda who, why: self._leave_out(name, mode, who, why),
            )

    def _leave_out(self, name: str, mode: str, who: str, why: str) -> None:
        say(f"{name} {mode}: without {who}: {why}")
        self.results.skipped[name, mode, who] = why


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = parser().parse_args(arguments)
    if args.setup_peers:
        peers.setup(args.cache.resolve() / "peers", say)
        return 0
    began, described = time.monotonic(), machine.describe(contest.ROOT)
    run = Run(args)
    wanted = args.models if args.models is not None else QUICK_MODELS if args.quick else tuple(models.MODELS)
    try:
        run.overhead()
        for name in wanted:
            run.model(name)
    finally:
        run.close()
    judged = bars.judge(run.results)
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    document = report.as_json(
        run.results,
        judged,
        machine=described,
        settings={**settings, "seconds": round(time.monotonic() - began, 1)},
        models=run.models,
        contestants=run.contestants,
        agreement=run.agreement,
    )
    print(report.table(run.results, judged, markdown=args.markdown), end="")
    stamp = f"{described['date'].replace(':', '').replace('+0000', 'Z')}-{(described['commit'] or 'unknown')[:12]}"
    path = args.json or RESULTS / (f"kept-{args.keep}.json" if args.keep else f"kernel-{stamp}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    say(f"wrote {path}")
    if args.plot:
        args.plot.write_text(plot.draw(run.results))
        say(f"wrote {args.plot}")
    return 1 if args.check and bars.failing(judged) else 0


if __name__ == "__main__":
    sys.exit(main())
