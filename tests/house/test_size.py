"""HOUSE.md: mind the tail. A file over 350 lines or a function over 60 is a reason to stop and think."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sft_core", "eval_suites", "infra", "tasks", "flows")


def test_no_file_and_no_function_is_too_long() -> None:
    too_long = []
    for file in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > 350:
            too_long.append(f"{file}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    too_long.append(f"{file}:{node.lineno} {node.name}: {length} lines")
    assert not too_long, "\n".join(too_long)


def test_package_docstrings_name_every_file() -> None:
    for room in ROOMS:
        doc = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))) or ""
        for file in (ROOT / room).glob("*.py"):
            assert file.name == "__init__.py" or file.name in doc, f"{room}/__init__.py does not mention {file.name}"
