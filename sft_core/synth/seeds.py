"""Tasks that people wrote, out of their files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.errors import DataError
from sft_core.stage import fingerprint
from sft_core.synth.rows import word


class Instance(NamedTuple):
    """A task carried out once; `input` is empty where it needs none."""

    input: str
    output: str


class Task(NamedTuple):
    """An instruction with some instances. `classification` is None where nobody has said."""

    id: str
    instruction: str
    instances: tuple[Instance, ...]
    classification: bool | None = None


OWN = Path(__file__).with_name("seeds.jsonl")
"""The tasks that come with this."""


def read_seeds(files: Sequence[str]) -> list[Task]:
    """The tasks of all files in order, or those that come with this, each instruction once.

    Raises:
        DataError: a file cannot be read or holds none, or a line is no task.
    """
    found: dict[str, Task] = {}
    for file in files or [str(OWN)]:
        for task in _read(Path(file)):
            found.setdefault(task.instruction, task)
    return list(found.values())


def _read(file: Path) -> Iterator[Task]:
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the seed tasks {file} cannot be read: {error}; self_instruct.seeds are JSONL files, relative "
                        f"ones begin in {Path.cwd()}") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"the seed tasks {file} hold no row; give a JSONL file of tasks")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _task(line, f"{file}:{number}")


def _task(line: str, where: str) -> Task:
    try:
        row = json.loads(line)
        instruction = _text(row, "instruction").strip()
        if not instruction:
            raise ValueError("its instruction is empty")
        given = row.get("instances", [row])
        instances = tuple(Instance(_text(one, "input", "").strip(), _text(one, "output", "").strip()) for one in given)
        said = row.get("is_classification")
        return Task(word(str(row.get("id") or fingerprint(instruction))), instruction,
                    tuple(one for one in instances if one.output), said if isinstance(said, bool) else None)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{where} is no seed task ({type(error).__name__}: {error}); a line is an object of "
                        "instruction and instances, a list of input and output, or of instruction, input and output"
                        ) from error


def _text(row: Any, key: str, default: str | None = None) -> str:
    found = row.get(key, default)
    if found is None and default is not None:
        return default
    if not isinstance(found, str):
        raise ValueError(f"{key} is {type(found).__name__}, not text")
    return found
