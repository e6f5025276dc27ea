"""Which revision of the code packs a model, where Git can tell. It never fails: what cannot be found out is absent."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from xai_service.model.provenance import Code

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)
# Questions only: no lock is taken, nobody is asked for a password, and no monitor that the repository names is started.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")


def read_code(folder: Path) -> Code | None:
    """Returns the commit that the work tree around ``folder`` stands on, and whether tracked files differ from it.

    ``None`` without Git, outside a work tree, or before the first commit.
    """
    asked = _run(folder, "rev-parse", "--verify", "HEAD")
    revision = asked.stdout.strip() if asked is not None and asked.returncode == 0 else ""
    if _COMMIT.fullmatch(revision) is None:
        return None
    changed = _run(folder, "diff", "--no-ext-diff", "--quiet", "HEAD")
    known = changed is not None and changed.returncode in (0, 1)
    return Code(revision, changed.returncode == 1 if changed is not None and known else None, "git")


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(  # noqa: S603 - our own arguments
            [*_GIT, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="ascii",
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
