"""What is said of the process, against what Linux says elsewhere, and a process of which everything is known."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from xai_service.metrics import process
from xai_service.metrics.text import render


def now():
    families = text_string_to_metric_families(render(process.process_families()).decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_it_is_what_is_said_elsewhere():
    read = now()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert read["process_threads"] == int(status["Threads"])
    for name, field in (("resident", "VmRSS"), ("virtual", "VmSize")):
        expected = int(status[field].split()[0]) * 1024
        assert read[f"process_{name}_memory_bytes"] == pytest.approx(expected, rel=0.05)
    assert read["process_cpu_seconds_total"] == pytest.approx(time.process_time(), abs=0.5)
    assert read["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    before = now()["process_open_fds"]
    with Path(os.devnull).open():
        assert now()["process_open_fds"] == before + 1


def test_a_process_that_has_just_begun(monkeypatch, tmp_path):
    program = tmp_path / "a) S 1 (b"  # its name is in the line that is read
    program.symlink_to("/bin/sleep")
    before = time.time()
    with subprocess.Popen([program, "60"]) as child:
        try:
            monkeypatch.setattr(process, "_SELF", Path(f"/proc/{child.pid}"))
            read = now()
        finally:
            child.kill()
    assert read["process_threads"] == 1
    assert read["process_cpu_seconds_total"] < 1
    assert before - 2 < read["process_start_time_seconds"] < time.time() + 2


def test_without_proc_there_is_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "_SELF", tmp_path)
    assert list(process.process_families()) == []
