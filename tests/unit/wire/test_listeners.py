"""Unix sockets: their permissions, whose they are, and that nothing else is ever removed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from xai_service.errors import Unavailable
from xai_service.wire.listeners import listen


@pytest.fixture
def serve():
    """Starts an echo on an address; stops all at the end."""
    started = []

    class Echo(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    def serve(address, **options):
        server = grpc.server(ThreadPoolExecutor(1), handlers=(Echo(),), options=[("grpc.so_reuseport", 0)])
        address = listen(server, address, **options)
        server.start()
        started.append(server)
        return server, address

    yield serve
    for server in started:
        server.stop(None)


def echo(address):
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return channel.unary_unary("/a/b")(b"x", timeout=10)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_has_its_permissions(serve, tmp_path, mode):
    umask = os.umask(0o022)
    os.umask(umask)
    _, address = serve(f"unix:{tmp_path}/s", unix_mode=mode)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    assert os.umask(umask) == umask
    assert echo(address) == b"x"


def test_it_never_had_others(serve, tmp_path, monkeypatch):
    """Looked at between gRPC's bind and the return."""
    real, seen = os.umask, []

    def umask(value):
        if (tmp_path / "s").exists():
            seen.append(stat.S_IMODE((tmp_path / "s").stat().st_mode))
        return real(value)

    monkeypatch.setattr(os, "umask", umask)
    serve(f"unix:{tmp_path}/s", unix_mode=0o600)
    assert seen == [0o600]


def test_it_is_gone_when_the_server_stops(serve, tmp_path):
    server, _ = serve(f"unix:{tmp_path}/s")
    server.stop(None).wait()
    assert not (tmp_path / "s").exists()


def test_that_of_a_dead_process_is_taken_over(serve, tmp_path):
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=True)
    assert (tmp_path / "s").is_socket()
    assert echo(serve(f"unix:{tmp_path}/s")[1]) == b"x"


def test_that_of_a_live_one_is_not(serve, tmp_path):
    _, address = serve(f"unix:{tmp_path}/s")
    with pytest.raises(Unavailable, match="another process does"):
        serve(address)
    assert echo(address) == b"x"
    with socket.socket(socket.AF_UNIX) as full:  # one that is too busy to answer lives too
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(str(tmp_path / "full"))
        with pytest.raises(Unavailable, match="it is there, and"):
            serve(f"unix:{tmp_path}/full")
        for one in waiting:
            one.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(serve, tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="something else is there"):
        serve(f"unix:{path}")
    assert os.path.lexists(path)


def test_of_two_that_start_at_once_one_is_refused(serve, tmp_path):
    (tmp_path / "dead").touch()
    for turn in range(10):
        address, refused, barrier = f"unix:{tmp_path}/s{turn}", [], threading.Barrier(2)

        def start(address=address, refused=refused, barrier=barrier):
            barrier.wait()
            try:
                serve(address)
            except Unavailable as error:
                refused.append(error)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1
        assert echo(address) == b"x"


def test_paths_that_cannot_be(serve, tmp_path):
    with pytest.raises(Unavailable, match="more than 107 bytes"):
        serve(f"unix:{tmp_path}/" + "x" * 100)
    with pytest.raises(Unavailable, match="No such file"):
        serve(f"unix:{tmp_path}/none/s")
    with pytest.raises(Unavailable, match=r"'nowhere\.invalid:1'"):
        serve("nowhere.invalid:1")


def test_tcp_tells_its_port(serve):
    _, address = serve("127.0.0.1:0")
    assert echo(address) == b"x"
    with pytest.raises(Unavailable, match="and free"):
        serve(address)
