"""Generates Python from `protos/` into the rooms that use it; with --check, only says whether it is up to date.

The API's code lives in `wire/` (it imports grpc), the record's in `ledger/` (it does not).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# proto file, room that owns the generated code, whether it holds a gRPC service
PROTOS = [
    ("xai/v1/decision_service.proto", "xai_service/wire/gen", True),
    # Its handlers take bytes (wire/inference.py), and its clients bring stubs of their own.
    ("inference/grpc_service.proto", "xai_service/wire/gen", False),
    ("xai/record/v1/record.proto", "xai_service/ledger/gen", False),
]
HEADER = "# Generated from protos/ by tools/gen_protos.py; do not edit.\n"


def generate(into: Path) -> dict[Path, str]:
    """Returns the generated files, by path relative to the repository."""
    files: dict[Path, str] = {}
    for proto, room, has_service in PROTOS:
        out = into / room
        out.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT / 'protos'}",
            f"--python_out={out}",
            f"--pyi_out={out}",
        ]
        if has_service:
            command.append(f"--grpc_python_out={out}")
        subprocess.run([*command, proto], check=True, cwd=ROOT)
        package = proto.rsplit("/", 1)[0]
        for path in sorted(out.glob(f"{package}/*_pb2*")):
            # protoc assumes that the proto root is on sys.path; ours is a room of the package.
            text = path.read_text().replace(
                f"from {package.replace('/', '.')} import",
                f"from {room.replace('/', '.')}.{package.replace('/', '.')} import",
            )
            files[Path(room) / package / path.name] = text if path.suffix == ".pyi" else HEADER + text
        folder = Path(room)
        for part in ["", *package.split("/")]:
            folder = folder / part
            files[folder / "__init__.py"] = HEADER
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a checked-in file differs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        files = generate(Path(folder))
    stale = [path for path, text in files.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    if check:
        for path in stale:
            print(f"{path}: differs from what protos/ generates; run `make proto`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(files[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
