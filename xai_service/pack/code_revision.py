"""Which revision of the code packs a model, where Git can tell. It never fails: what cannot be found out is absent."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

from xai_service.model.provenance import Code

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 4096
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)
# Questions only: no lock is taken, nobody is asked for a password, and no monitor that the repository names is started.
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false")


def read_code(folder: Path) -> Code | None:
    """Returns the commit that the work tree around ``folder`` stands on, and whether tracked files differ from it.

    ``None`` without Git, outside a work tree, or before the first commit.
    """
    code, answer = _run(folder, "rev-parse", "--verify", "HEAD")
    revision = answer.strip()
    if code != 0 or _COMMIT.fullmatch(revision) is None:
        return None
    changed, _ = _run(folder, "diff", "--no-ext-diff", "--quiet", "HEAD")
    return Code(revision, changed == 1 if changed in (0, 1) else None, "git")


def _run(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Returns Git's exit code and what it said; ``None`` if it did not end by itself."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    # To a file: the end of a pipe would be waited for as long as any child of Git's holds it, whatever the timeout.
    with tempfile.TemporaryFile() as answer:
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments
                [*_GIT, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None, ""
        answer.seek(0)
        return done.returncode, answer.read(_MAX_ANSWER_BYTES).decode("ascii", "replace")
