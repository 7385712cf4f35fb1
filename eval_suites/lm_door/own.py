"""What lm-eval tasks of one's own read from elsewhere: included YAMLs, code, data files, local data sets.

Their folder (`eval.include_path`) is stamped as a whole; here is what its YAMLs name outside it.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from eval_suites.scorers.followed import Followed, follow_name
from sft_core.data.localhub import stamp
from sft_core.stage import known


class _Reading(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Takes `!function` for its text, and keeps it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.functions: list[str] = []

    def function(self, node: yaml.ScalarNode) -> str:
        """The name of a function: of a module beside the YAML, or of one that Python finds."""
        self.functions.append(str(node.value))
        return self.functions[-1]


_Reading.add_constructor("!function", _Reading.function)


class _Task(NamedTuple):
    """One YAML: what stands in it, the YAMLs that it includes, and the code that it names."""

    file: Path
    data: Any
    included: list[Path]
    code: list[Followed]


def read_elsewhere(folder: Path) -> list[object]:
    """Moves with all that the tasks in a folder name: files by place, size and times, code by its content."""
    told: list[object] = []
    for task in _tasks(folder):
        places = {place for part in _parts(task.data) for place in _places(part)} | {
            one for one in task.included if one.is_file()}
        told += [[known(place) if place.is_file() else stamp(place) for place in sorted(places)],
                 [one.version for one in task.code]]
    return told


def forget_code(folder: Path) -> None:
    """Let the code of the tasks in a folder be read anew: lm-eval goes by its time of change, Python not even by that.
    """
    for task in _tasks(folder):
        for one in task.code:
            one.forget()


def _tasks(folder: Path) -> Iterator[_Task]:
    """The tasks in a folder and what they include, each file once."""
    ahead, seen = sorted(folder.rglob("*.yaml")), set[Path]()
    while ahead:
        file = ahead.pop(0).resolve()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        data, functions = _read(file)
        included = [file.parent / one for part in _parts(data) for one in _texts(part.get("include"))]
        ahead += included
        modules = sorted({one.rpartition(".")[0] for one in functions} - {""})
        yield _Task(file, data, included, [follow_name(one, file.parent) for one in modules])


def local_files(value: object) -> list[Path]:
    """The files that the texts in `data_files` and the like name on this machine, patterns included."""
    found = (Path(one).expanduser() for text in _texts(value) for one in
             (glob.glob(text, recursive=True) if glob.has_magic(text) else [text]))
    return sorted(path for path in found if _is(path))


def _read(file: Path) -> tuple[Any, list[str]]:
    try:
        loader = _Reading(file.read_text(encoding="utf-8"))
        return loader.get_single_data(), loader.functions
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):  # told by lm-eval
        return None, []


def _parts(value: object) -> Iterator[dict[str, Any]]:
    """A task, and those that a group gives as a part of itself."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def _places(task: dict[str, Any]) -> Iterator[Path]:
    yield from local_files(task.get("dataset_path"))
    given = task.get("dataset_kwargs")
    yield from local_files(given)
    for base in _texts([task.get("dataset_path"), given.get("data_dir") if isinstance(given, dict) else None]):
        yield from local_files([str(Path(base) / one) for one in _texts(given)])


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _is(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is no path
        return False
