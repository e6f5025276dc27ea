"""Versions come, change and go under a server that is being asked all the time: no request fails for it."""

from __future__ import annotations

import collections
import contextlib
import gc
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import xgboost as xgb

from tests.conftest import serving
from xai_service.client import Client, RequestFailed
from xai_service.deferred import DeferredExplainer
from xai_service.keys import PrivateKey
from xai_service.model.costs import Costs
from xai_service.pack import pack
from xai_service.pack.signing import sign_bundle
from xai_service.types import ExplanationStatus

LONG_S = 60  # only waited out when a test fails


@pytest.fixture(scope="module")
def bundles(loans, tmp_path_factory):
    """Bundles ``loan`` 1 to 4, each of another model, in a folder that no server looks at."""
    folder = tmp_path_factory.mktemp("packed")
    rows = loans.features.iloc[:1500]
    table = xgb.DMatrix(rows, loans.approved.iloc[:1500])
    for version in "1234":
        booster = xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, table, 10 * int(version))
        pack(booster, rows, name="loan", version=version, out=folder, latency_budget_ms=2000)
    return folder / "loan"


@pytest.fixture
def repository(bundles, tmp_path):
    """A folder with ``loan`` 1, and functions that change it as operators do."""
    folder = tmp_path / "repository"
    shutil.copytree(bundles / "1", folder / "loan" / "1")
    return folder


def publish(bundles, repository, version):
    """At once, as `xai pack` does."""
    draft = repository / "loan" / f".{version}"
    shutil.copytree(bundles / version, draft)
    draft.rename(repository / "loan" / version)


def until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def states(client):
    return {one.model_version: (one.ready, one.reason) for one in client.models()}


class Callers:
    """Threads that ask without pause, and what they were answered."""

    def __init__(self, address, rows, versions=("", "", "1")):
        self.failures, self.replies = [], []
        self.seen = collections.Counter()
        self._address, self._rows, self._stop = address, rows, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(version,)) for version in versions]

    def _ask(self, version):
        with Client(self._address) as client:
            while not self._stop.is_set():
                try:
                    reply = client.predict(self._rows, "loan", version=version, timeout_s=LONG_S)
                except RequestFailed as failed:
                    self.failures.append(failed)
                    return
                if version:
                    assert reply.model_version == version
                self.seen[reply.model_version, reply.model_sha256] += 1
                self.replies.append(reply)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def asked_again(self):
        """Waits until each could have been answered anew."""
        so_far = len(self.replies)
        until(lambda: self.failures or len(self.replies) > so_far + 10)


def test_no_request_fails_while_versions_come_change_and_go(loans, bundles, repository, tmp_path):
    loan = repository / "loan"
    rows = loans.held_out.iloc[:2]
    with (
        serving(repository, tmp_path / "l", reload_every_s=0.02) as server,
        Client(server.addresses[0]) as client,
        Callers(server.addresses[0], rows) as callers,
    ):
        callers.asked_again()

        publish(bundles, repository, "2")
        until(lambda: client.predict(rows, "loan").model_version == "2")

        (loan / "3").mkdir()  # by a writer that takes its time
        for name in ("model.onnx", "manifest.json"):
            whole = (bundles / "3" / name).read_bytes()
            for end in (len(whole) // 2, len(whole)):
                (loan / "3" / name).write_bytes(whole[:end])
                callers.asked_again()
        until(lambda: client.predict(rows, "loan").model_version == "3")

        shutil.copytree(bundles / "4", loan / "9")  # a bad push: its manifest says 4
        until(lambda: "expected loan, version 9" in states(client).get("9", (True, ""))[1])
        callers.asked_again()
        assert client.predict(rows, "loan").model_version == "3"

        for name in ("model.onnx", "manifest.json"):  # another model under a version that serves
            shutil.copy(bundles / "4" / name, loan / "3" / name)
        until(lambda: "goes on serving as it was loaded" in states(client)["3"][1])
        callers.asked_again()
        assert states(client)["3"][0]

        shutil.rmtree(loan / "3")
        until(lambda: "3" not in states(client))
        assert client.predict(rows, "loan").model_version == "2"
        publish(bundles, repository, "4")
        until(lambda: client.predict(rows, "loan").model_version == "4")
        shutil.rmtree(loan / "2")
        until(lambda: set(states(client)) == {"1", "4", "9"})
        callers.asked_again()
        with pytest.raises(RequestFailed, match="has no version '2'"):
            client.predict(rows, "loan", version="2")
    assert callers.failures == []
    served = collections.defaultdict(set)
    for version, sha256 in callers.seen:
        served[version].add(sha256)
    assert set(served) == {"1", "2", "3", "4"}
    assert all(len(files) == 1 for files in served.values())  # a version was one file all the time
    margins = collections.defaultdict(set)
    for reply in callers.replies:
        assert set(reply.statuses) == {ExplanationStatus.COMPLETE}
        margins[reply.model_version].add(reply.margin.tobytes())
    assert all(len(bits) == 1 for bits in margins.values())


def test_what_a_version_decided_is_explained_after_it_is_gone_and_nothing_holds_it(
    loans, bundles, repository, tmp_path, monkeypatch
):
    rows = loans.held_out.iloc[:150]
    gone, finish = threading.Event(), DeferredExplainer._finish_batch

    def finish_when_gone(self):
        assert gone.wait(LONG_S)
        return finish(self)

    monkeypatch.setattr(DeferredExplainer, "_finish_batch", finish_when_gone)
    with serving(repository, tmp_path / "l", reload_every_s=0.01) as server, Client(server.addresses[0]) as client:
        service = server._service
        publish(bundles, repository, "2")  # after the start, whose models are held for what an earlier process left
        until(lambda: "2" in states(client))
        here = weakref.ref(service._repository.get("loan", "2"))
        client.predict(rows, "loan", version="2")
        with monkeypatch.context() as patched:  # it is reckoned to take too long
            patched.setattr(Costs, "explain_us", lambda *_: 1e12)
            reply = client.predict(rows, "loan", version="2")
        assert set(reply.statuses) == {ExplanationStatus.DEFERRED}
        shutil.rmtree(repository / "loan" / "2")
        until(lambda: "2" not in states(client))
        assert client.explanation(reply.decision_ids[0]).status is ExplanationStatus.DEFERRED
        gone.set()
        for decision_id in reply.decision_ids:
            explanation = client.explanation(decision_id, wait_s=LONG_S)
            assert explanation.status is ExplanationStatus.COMPLETE
            assert explanation.additivity_residual <= 1e-5
        client.predict(rows, "loan")

        def is_gone():
            gc.collect()
            return here() is None

        until(is_gone)
        assert list(service._profiles._by_model) == [service._repository.get("loan")]
        assert list(service._overlap._learnt) == [service._repository.get("loan")]


def test_signed_bundles_only_at_load_and_at_reload(loans, bundles, repository, tmp_path):
    key, rows = PrivateKey.generate(), loans.held_out.iloc[:2]
    _, public = key.save(tmp_path / "signing")
    loan = repository / "loan"
    sign_bundle(loan / "1", key)
    publish(bundles, repository, "2")  # unsigned
    with (
        serving(repository, tmp_path / "l", reload_every_s=0.02, require_signed=(public,)) as server,
        Client(server.addresses[0]) as client,
        Callers(server.addresses[0], rows) as callers,
    ):
        (one, two) = client.models()
        assert (one.ready, one.signed_by) == (True, key.public.key_id)
        assert not two.ready
        assert "is not signed" in two.reason
        with pytest.raises(RequestFailed, match=r"FAILED_PRECONDITION: .*is not signed"):
            client.predict(rows, "loan", version="2")

        publish(bundles, repository, "3")
        until(lambda: "3" in states(client))
        sign_bundle(loan / "3", PrivateKey.generate())
        until(lambda: "which is not trusted" in states(client)["3"][1])
        for file in sorted((loan / "1").iterdir()):
            whole = file.read_bytes()
            flipped = bytearray(whole)
            flipped[len(whole) // 2] ^= 4
            file.write_bytes(flipped)
            until(lambda file=file: f"{file.name}: " in states(client)["1"][1])
            callers.asked_again()
            assert states(client)["1"][0]
            file.write_bytes(whole)
            until(lambda: states(client)["1"] == (True, ""))
        sign_bundle(loan / "3", key)
        until(lambda: client.predict(rows, "loan").model_version == "3")
    assert callers.failures == []


def test_sighup_has_it_look(loans, bundles, repository, tmp_path):
    address = f"unix:{tmp_path}/s.sock"
    options = ["--repository", repository, "--ledger", tmp_path / "l", "--listen", address, "--reload-every-s", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "xai_service.cli", "serve", "--json", *options], stdout=subprocess.PIPE, text=True
    )
    with contextlib.closing(process.stdout), Client(address) as client:
        try:
            assert "listening" in process.stdout.readline()
            publish(bundles, repository, "2")
            with Callers(address, loans.held_out.iloc[:2]) as callers:
                callers.asked_again()
                assert set(states(client)) == {"1"}
                for _ in range(20):
                    process.send_signal(signal.SIGHUP)
                until(lambda: states(client).get("2") == (True, ""))
                callers.asked_again()
            assert callers.failures == []
            assert np.isfinite(client.predict(loans.held_out.iloc[:1], "loan", version="2").margin).all()
        finally:
            process.terminate()
            assert process.wait(LONG_S) == 0
