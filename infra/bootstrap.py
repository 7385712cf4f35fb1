"""Makes the virtual environment of `make demo` and `make test`; runs on the system's Python, standard library only.

Quick when nothing changed: a stamp holds the hash of what was installed. Says what is missing: Python, disk, index.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NEEDED_PYTHON = (3, 11)
NEEDED_DISK_BYTES = 5 * 2**30  # torch, MLflow, Prefect and their wheels while they unpack


def stop(message: str) -> None:
    """Say what is wrong and end with exit code 1."""
    print(f"setup: {message}", file=sys.stderr)
    sys.exit(1)


def stamp_of_inputs() -> str:
    """Hash of everything that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def check_machine() -> None:
    """Stop with a reason where the environment cannot be made."""
    if sys.version_info < NEEDED_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        stop(f"Python {found} is too old, 3.11 or newer is needed; try `make PYTHON=python3.12 …`")
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_DISK_BYTES:
        stop(f"{free / 2**30:.1f} GiB free in {ROOT}, {NEEDED_DISK_BYTES / 2**30:.0f} GiB are needed; free some space")


def make_venv() -> Path:
    """Make .venv where it is missing or broken and return its interpreter."""
    python = VENV / "bin" / "python"
    works = python.exists() and not subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode
    if not works:
        print(f"setup: making {VENV.name} with Python {sys.version.split()[0]}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
        if made.returncode:
            said = f"{made.stdout.strip()} {made.stderr.strip()}"
            stop(f"cannot make {VENV}: {said}; on Debian: apt install python3-venv")
    return python


def install(python: Path, extra: str) -> None:
    """Install the project, editable, with the pinned versions."""
    what = f"{ROOT}[{extra}]" if extra else str(ROOT)
    first = not (VENV / "bin" / "sft").exists()
    print(f"setup: installing {'(about 2.5 GB, 3 to 4 minutes)' if first else 'what is missing'}", flush=True)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), "-e", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        stop(f"pip could not install the project:\n{tail}\n"
             "If no package index can be reached, set PIP_INDEX_URL (or pip's own configuration) to one that can.")


def main() -> None:
    """Entry point: `python infra/bootstrap.py [EXTRA]`."""
    extra = sys.argv[1] if len(sys.argv) > 1 else ""
    stamp = VENV / f".installed-{extra or 'run'}"
    enough = [stamp] if extra else [stamp, VENV / ".installed-dev"]
    if (VENV / "bin" / "sft").exists() and any(s.exists() and s.read_text() == stamp_of_inputs() for s in enough):
        return
    check_machine()
    install(make_venv(), extra)
    stamp.write_text(stamp_of_inputs())


if __name__ == "__main__":
    main()
