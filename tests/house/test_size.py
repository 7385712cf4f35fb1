"""Mind the tail: a file over 350 lines or a function over 60 is a reason to stop and think (CONTRIBUTING.md)."""

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
    rooms = [init.parent for room in ROOMS for init in (ROOT / room).rglob("__init__.py")]
    assert len(rooms) > len(ROOMS)
    missing = []
    for room in rooms:
        doc = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
        files = {file.name for file in room.glob("*.py")} - {"__init__.py"}
        folders = {f"{inner.parent.name}/" for inner in room.glob("*/__init__.py")}
        missing += [f"{room.relative_to(ROOT)} does not name {name}" for name in files | folders if name not in doc]
    assert not missing, "\n".join(missing)


def test_every_folder_of_code_is_a_package_with_a_map() -> None:
    folders = {file.parent for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    bare = [folder for folder in folders if not (folder / "__init__.py").exists() and "lm_tasks" not in folder.parts]
    assert not bare
