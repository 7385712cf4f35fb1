"""Every distribution that is imported is declared, so that nothing works only because something else brings it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sft_core", "eval_suites", "infra", "tasks", "flows")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    """The distribution's name as the index normalises it, e.g. `PyYAML>=6` → `pyyaml`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group(0)).lower()  # type: ignore[union-attr]


def imported(*folders: str) -> dict[str, str]:
    """Top-level name of every import from outside the standard library and this project → a file that has it."""
    ours = {*ROOMS, "tests", "bench"} | {file.stem for file in (ROOT / "tests").rglob("*.py")}
    found: dict[str, str] = {}
    for file in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names and name not in ours}


def undeclared(names: dict[str, str], declared: set[str]) -> dict[str, str]:
    """Imports that no declared distribution provides."""
    provides = packages_distributions()
    return {name: file for name, file in names.items()
            if not declared & {name_of(each) for each in provides.get(name, [name])}}


REQUIRED = {name_of(each) for each in PROJECT["dependencies"]}
EXTRAS = {extra: {name_of(each) for each in all_} for extra, all_ in PROJECT["optional-dependencies"].items()}
LATE = {"trl": "trl", "vllm": "vllm", "nltk": "ifeval", "bitsandbytes": "qlora", "psycopg": "postgres", "gguf": "gguf",
        "optuna_dashboard": "dashboard", "boto3": "s3", "botocore": "s3", "presidio_analyzer": "names",
        "prefect_dask": "dask", "distributed": "dask"}
"""Imports that stand where an absent extra gives an error with its install line: the import, and the extra."""


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_imports_is_declared(room: str) -> None:
    found = imported(room)
    missing = undeclared({name: file for name, file in found.items() if name not in LATE}, REQUIRED)
    assert not missing
    assert not undeclared({name: file for name, file in found.items() if name in LATE}, set().union(*EXTRAS.values()))


def test_what_tests_and_benches_import_is_declared() -> None:
    assert not undeclared(imported("tests", "bench"), REQUIRED | EXTRAS["dev"])


def test_the_rule_itself_can_fail() -> None:
    assert undeclared({"yaml": "x.py"}, REQUIRED - {"pyyaml"}) == {"yaml": "x.py"}
    assert undeclared({"nosuchpackage": "x.py"}, REQUIRED) == {"nosuchpackage": "x.py"}
