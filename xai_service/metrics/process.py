"""What Linux says of this process, under the names that Prometheus' own clients use."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from xai_service.metrics.text import Family

_SELF = Path("/proc/self")


def process_families() -> Iterator[Family]:
    """Yields memory, processor time, threads and files; nothing where there is no /proc."""
    try:
        # The second field is the program's name in parentheses, and may hold anything, a parenthesis too.
        fields = (_SELF / "stat").read_text(errors="replace").rpartition(")")[2].split()
        open_files = len(os.listdir(_SELF / "fd")) - 1  # noqa: PTH208 (without the one that lists them)
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except OSError:
        return
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    user, system, threads, started, virtual, pages = (int(fields[i]) for i in (11, 12, 17, 19, 20, 21))
    yield Family("process_cpu_seconds_total", "counter", "Processor time used.").add((user + system) / ticks)
    yield Family("process_resident_memory_bytes", "gauge", "Memory resident.").add(pages * page)
    yield Family("process_virtual_memory_bytes", "gauge", "Address space.").add(virtual)
    yield Family("process_threads", "gauge", "Threads.").add(threads)
    yield Family("process_open_fds", "gauge", "Files and sockets open.").add(open_files)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = float("inf") if soft == resource.RLIM_INFINITY else soft
    yield Family("process_max_fds", "gauge", "Files and sockets that may be open.").add(limit)
    start = int(booted.split()[1]) + started / ticks
    yield Family("process_start_time_seconds", "gauge", "When it began, since the Unix epoch.").add(start)
