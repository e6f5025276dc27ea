"""`xai serve` as a process of its own, for what only a process shows: signals, start, drain, several workers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

YES, NO = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WITHIN_S = 60


class Process:
    """A service that was started; ``log`` grows as it writes to stderr."""

    def __init__(self, *options, before=""):
        code = f"{before}\nfrom xai_service.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--json", *map(str, options)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.popen.stderr:
            self.log += line

    def listening(self) -> list[str]:
        line = self.popen.stdout.readline()
        assert line, self.log
        return json.loads(line)["listening"]

    def logged(self, pattern) -> re.Match:
        """Waits until the log has it."""
        end = time.monotonic() + WITHIN_S
        while not (found := re.search(pattern, self.log)):
            assert time.monotonic() < end, self.log
            assert self.popen.poll() is None, self.log
            time.sleep(0.01)
        return found

    def ended(self) -> int:
        code = self.popen.wait(WITHIN_S)
        self._reader.join(WITHIN_S)
        return code


@contextlib.contextmanager
def started(*options, before=""):
    """A process that is there while the block lasts, and killed after it where it still is; runs ``before`` first."""
    process = Process(*options, before=before)
    try:
        yield process
    finally:
        process.popen.kill()
        process.ended()
        process.popen.stdout.close()
        process.popen.stderr.close()


def check(address, service="", **channel):
    """The status, or ``None`` where the service is not known."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)], **channel) as opened:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(opened).Check(request, timeout=10).status
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
