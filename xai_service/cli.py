"""The ``xai`` command. Results go to stdout and nothing else does; errors and progress go to stderr.

Exit codes: 0 done, 1 it failed (``error: …`` says why), 2 the command was not understood.
"""
# ruff: noqa: PLC0415 - commands import what they need, so that `xai --help` does not wait for onnxruntime and xgboost

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xai_service.cli_keys import keygen, load_key, sign_command, verify_bundle
from xai_service.config import ServiceConfig
from xai_service.console.inspection import inspect
from xai_service.errors import XaiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xai_service.client import Client, ModelStatus

_BATCH_ROWS = 1000


class _Commands(click.Group):
    """The one place where errors become text and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        try:
            sys.exit(super().main(*args, standalone_mode=False, **extra) or 0)  # type: ignore[call-overload]
        except click.UsageError as error:
            if error.ctx is not None:
                click.echo(error.ctx.get_usage(), err=True)
            _fail(error.format_message(), 2)
        except click.ClickException as error:
            _fail(error.format_message(), 1)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        except BrokenPipeError:
            sys.stdout = None  # the reader has gone; nothing left to flush to it
            sys.exit(1)
        except (XaiError, OSError) as error:
            _fail(_text(error), 1)
        except Exception as error:
            if not _is_refusal(error):
                raise
            _fail(str(error), 1)


def _fail(message: str, code: int) -> typing.NoReturn:
    from xai_service.console.messages import as_message

    click.echo(f"error: {as_message(message)}", err=True)
    sys.exit(code)


def _text(error: Exception) -> str:
    """Without the number that an OSError's own text begins with."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _is_refusal(error: Exception) -> bool:
    client = sys.modules.get("xai_service.client")  # where it was never imported, it raised nothing
    return client is not None and isinstance(error, client.RequestFailed)


class _Finite(click.FloatRange):
    """A number between the bounds, which themselves are out. NaN, which click lets pass any range, is not one."""

    def __init__(self, low: float, high: float | None = None) -> None:
        super().__init__(low, high, min_open=True, max_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, one object for each line.")
_target = click.option(
    "--target",
    default="127.0.0.1:8001",
    envvar="XAI_TARGET",
    show_default=True,
    show_envvar=True,
    help="Where the service listens: host:port or unix:/path.",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="xai-service", prog_name="xai")
def main() -> None:
    """Predictions with exact explanations in one call, each decision recorded."""


@main.command()
@click.argument("model", type=_FILE)
@click.option("--data", required=True, metavar="CSV", help="Rows like those to be served, with a header; - for stdin.")
@click.option("--name", required=True, help="The model's name in the repository.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The model repository.")
@click.option("--version", help="Version to write.  [default: one above the highest there]")
@click.option("--classes", help="Names of the classes, separated by commas.  [default: the model's, else 0,1,...]")
@click.option(
    "--threshold",
    type=_Finite(0, 1),
    help="Probability above which class 1 of two is decided.  [default: 0.5]",
)
@click.option("--favourable-class", help="The class that is good for the person decided about.")
@click.option("--latency-budget-ms", type=_Finite(0), help="How long a reply waits for explanations at the most.")
@click.option(
    "--missing",
    type=click.Choice(["seen", "all", "none"]),
    default="seen",
    show_default=True,
    help="Which features may be missing when served: those that are in --data, all, or none.",
)
@click.option(
    "--card",
    "provenance",
    type=_FILE,
    metavar="TOML",
    help="What you state of the model, for its model card: owner, use, data, features; see docs/card.toml.",
)
@click.option("--drop", multiple=True, metavar="COL", help="Column that is not a feature. May be given more than once.")
@click.option(
    "--background",
    type=_FILE,
    metavar="CSV",
    help="Rows to explain against, interventionally.  [default: path-dependent explanations]",
)
@click.option("--background-rows", type=click.IntRange(1), help="Draw so many of them.  [default: all]")
@click.option(
    "--covers",
    type=click.Choice(["model", "count"]),
    default="model",
    show_default=True,
    help="Of an .onnx file: its own covers, or --data counted, if it is what the trees were trained on, unweighted.",
)
@click.option("--raw-score", is_flag=True, help="Serve the raw score, as a regression, whatever the objective is.")
@click.option("--sign", type=_FILE, metavar="KEY", help="Private key, from `xai keygen`, to sign the bundle with.")
@_json
def pack(
    *,
    model: Path,
    data: str,
    name: str,
    out: Path,
    drop: tuple[str, ...],
    classes: str | None,
    raw_score: bool,
    sign: Path | None,
    background: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Turn a model file into a bundle that can be served.

    MODEL is what save_model() wrote: .ubj or .json of XGBoost, .txt of LightGBM, .cbm or .json of CatBoost; or an .onnx
    file of trees that another converter made. scikit-learn's models have no such files: pack them in Python, with
    xai_service.pack.pack(). The bundle is proven equal to MODEL on the rows of --data, in which categories are codes.
    """
    from xai_service import report
    from xai_service.csv_rows import read_rows

    try:
        from xai_service.pack import pack as pack_model
        from xai_service.pack import readers
    except ImportError as error:
        raise _extra_missing("pack", error) from error
    native = readers.read(model, raw_score=raw_score)
    key = None if sign is None else load_key(sign)
    with click.open_file(data, encoding="utf-8-sig") as stream:
        rows = read_rows(stream, data, native.feature_names, drop)
    _note_ignored(rows.ignored)
    compared_with = None
    if background is not None:
        with background.open(encoding="utf-8-sig") as stream:
            compared_with = read_rows(stream, str(background), rows.feature_names).values
    with click.progressbar(length=100, label="packing", file=sys.stderr) as bar:

        def progress(step: str, done: float) -> None:
            bar.label = step
            bar.update(round(100 * done) - bar.pos)

        bundle = pack_model(
            native,
            rows.values,
            name=name,
            out=out,
            feature_names=list(rows.feature_names),
            classes=None if classes is None else tuple(one.strip() for one in classes.split(",")),
            key=key,
            background=compared_with,
            progress=progress,
            **settings,
        )
    click.echo(report.to_json({"bundle": str(bundle)}) if as_json else str(bundle))


def _extra_missing(extra: str, error: ImportError) -> click.ClickException:
    return click.ClickException(f"{error}; this command needs: pip install 'xai-service[{extra}]'")


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each field of `ServiceConfig`: the fields are the settings, there is no second list."""
    hints = typing.get_type_hints(ServiceConfig)
    for field in reversed(dataclasses.fields(ServiceConfig)):
        given: dict[str, Any] = {"required": True}
        if field.default is not dataclasses.MISSING:
            given = {"default": field.default}
        elif field.default_factory is not dataclasses.MISSING:
            given = {"default": field.default_factory()}
        flag = field.name.replace("_", "-")
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):  # `float | None`: unset is None
            hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
        multiple = typing.get_origin(hint) is tuple
        if multiple:
            hint = typing.get_args(hint)[0]
        kind: Any = click.Path(path_type=Path) if hint is Path else hint
        if typing.get_origin(hint) is typing.Literal:
            kind = click.Choice(typing.get_args(hint))
        command = click.option(
            f"--{flag}/--no-{flag}" if hint is bool else f"--{flag}",
            type=kind,
            multiple=multiple,
            envvar=f"XAI_{field.name.upper()}",
            show_default=True,
            show_envvar=True,
            help=field.metadata["help"],
            **given,
        )(command)
    return command


@main.command()
@_setting_options
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    envvar="XAI_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="Least severe messages to log; the log goes to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"], case_sensitive=False),
    default="text",
    envvar="XAI_LOG_FORMAT",
    show_default=True,
    show_envvar=True,
    help="Lines of text, or a JSON object a line.",
)
@_json
def serve(as_json: bool, log_level: str, log_format: str, **settings: Any) -> None:
    """Serve a model repository until SIGTERM or SIGINT.

    Requests in flight are finished before it ends.
    """
    try:
        config = ServiceConfig(**settings)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    from xai_service import report
    from xai_service.logs import logging_to_stderr

    def on_ready(addresses: tuple[str, ...]) -> None:
        text = report.to_json({"listening": addresses}) if as_json else f"listening on {', '.join(addresses)}"
        click.echo(text)
        sys.stdout.flush()

    with logging_to_stderr(log_level, log_format):
        from xai_service.wire.server import serve as serve_until_stopped  # after gRPC was told what to log

        serve_until_stopped(config, on_ready)


@main.command()
@click.option("--csv", "source", required=True, metavar="CSV", help="Rows, with a header; - for stdin.")
@click.option("--model", required=True, help="The model's name.")
@click.option("--version", default="", help="Its version.  [default: the highest served]")
@_target
@click.option("--latency-budget-ms", type=_Finite(0), help="How long a batch waits for its explanations.")
@click.option(
    "--top", default=3, show_default=True, type=click.IntRange(0), help="How many features to show for a row."
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write all results to this CSV file too."
)
@_json
def predict(
    *,
    source: str,
    model: str,
    version: str,
    target: str,
    latency_budget_ms: float | None,
    top: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Predict and explain the rows of a CSV file.

    Columns are matched to the model's features by name, in any order. An empty cell is a missing value.
    """
    from xai_service import report
    from xai_service.client import Client, RequestFailed
    from xai_service.csv_rows import Sheet, read_rows

    with Client(target) as client:
        served = _served(client, model, version)
        features = served.feature_names
        strings = {name for name, kind in zip(features, served.feature_kinds, strict=False) if kind == "string"}
        required = {name for name, may in zip(features, served.allows_missing, strict=False) if not may}
        # All values are checked before the first batch is decided, and recorded.
        with click.open_file(source, encoding="utf-8-sig") as stream:
            rows = read_rows(stream, source, features, required=required, strings=strings)
        _note_ignored(rows.ignored)
        sheet = Sheet(output)
        starts = range(0, len(rows.values), _BATCH_ROWS)
        # Each batch is shown when it is there: its decisions are recorded, whatever becomes of the next.
        hidden = len(starts) == 1 or sys.stdout.isatty()  # on a terminal the rows themselves show how far it is
        with click.progressbar(starts, label="rows", file=sys.stderr, hidden=hidden) as bar, sheet:
            for start in bar:
                batch = rows.values[start : start + _BATCH_ROWS]
                try:
                    reply = client.predict(
                        batch,
                        model,
                        version=served.model_version,
                        feature_names=features,
                        latency_budget_ms=latency_budget_ms,
                    )
                except RequestFailed as error:
                    done = f"; the {start} rows before are decided and recorded" if start else ""
                    raise click.ClickException(f"rows {start + 1} to {start + len(batch)}: {error}{done}") from error
                if as_json:
                    for row in range(len(reply.rows)):
                        click.echo(report.to_json(report.reply_json(reply, row, start + row + 1)))
                else:
                    click.echo(report.reply_table(reply, top, start + 1))
                sheet.write(report.flat_row(reply, row, start + row + 1) for row in range(len(reply.rows)))


def _served(client: Client, model: str, version: str) -> ModelStatus:
    """The version that the service takes: the one asked for, else the last that is ready."""
    known = client.models()
    versions = [one for one in known if one.model_name == model and version in ("", one.model_version)]
    ready = [one for one in versions if one.ready]
    if ready:
        return ready[-1]
    if versions:
        raise click.ClickException(
            f"model {model!r} version {versions[-1].model_version} is not served: {versions[-1].reason}"
        )
    wanted = f"model {model!r}" + (f" version {version}" if version else "")
    there = ", ".join(f"{one.model_name} {one.model_version}" for one in known) or "none"
    raise click.ClickException(f"no {wanted}; the service knows: {there}")


def _note_ignored(columns: Sequence[str]) -> None:
    if columns:
        click.echo(f"columns that are not features, ignored: {', '.join(columns)}", err=True)


@main.command()
@click.argument("decision_id", metavar="ID")
@click.option(
    "--wait",
    "wait_s",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    metavar="S",
    help="Seconds to wait for an explanation that is deferred.",
)
@click.option("--top", type=click.IntRange(0), help="How many features to show.  [default: all that weigh anything]")
@_target
@_json
def decision(decision_id: str, wait_s: float, top: int | None, target: str, as_json: bool) -> None:
    """Show one decision as it was recorded.

    Its input, its outcome, and how much each feature weighed.
    """
    from xai_service import report
    from xai_service.client import Client

    with Client(target) as client:
        if wait_s:
            client.explanation(decision_id, wait_s=wait_s)
        one = client.decision(decision_id)
    click.echo(report.to_json(report.decision_json(one)) if as_json else report.decision_text(one, top=top))


@main.command()
@_target
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="List what a server of this folder would serve, without one.",
)
@click.option(
    "--require-signed",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="KEY",
    help="With --repository: refuse as a server with these keys would.",
)
@_json
def models(target: str, repository: Path | None, require_signed: tuple[Path, ...], as_json: bool) -> None:
    """List the models served, and those refused with the reason."""
    from xai_service import report
    from xai_service.client import Client, ModelStatus

    if require_signed and repository is None:
        raise click.UsageError("--require-signed goes with --repository; a server has its own keys")
    if repository is not None:
        from xai_service.keys import load_trusted
        from xai_service.model.repository import Repository

        trusted = load_trusted(require_signed) if require_signed else None
        known = [ModelStatus.of(entry) for entry in Repository(repository, trusted).entries()]
    else:
        with Client(target) as client:
            known = client.models()
    if as_json:
        for one in known:
            click.echo(report.to_json(report.model_json(one)))
    else:
        click.echo(report.models_table(known))


@main.command()
@click.option(
    "--out",
    default="var/demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the model, the decisions and the picture go. A later run adds a version; nothing is removed.",
)
@click.option(
    "--applicants", default=5, show_default=True, type=click.IntRange(1, 50), help="How many to decide about."
)
@_json
def demo(out: Path, applicants: int, as_json: bool) -> None:
    """Train, pack, serve and explain real mortgage applications.

    From the data to why one applicant was denied, with a real server in between.
    """
    try:
        from xai_service.demo import run

        run(out, applicants, as_json=as_json)
    except ImportError as error:
        raise _extra_missing("demo", error) from error


for command in (keygen, sign_command, verify_bundle, inspect):
    main.add_command(command)

if __name__ == "__main__":
    main()
