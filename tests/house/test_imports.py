"""The table of rooms in docs/ARCHITECTURE.md as a test: who may import whom, late imports included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sft_core", "eval_suites", "infra", "tasks", "flows")
MAY_IMPORT = {
    "sft_core": set(),
    "eval_suites": {"sft_core"},
    "infra": {"sft_core.masking", "sft_core.errors", "sft_core.names", "sft_core.locks", "sft_core.stopping",
              "sft_core.visible"},
    "tasks": {"sft_core", "eval_suites", "infra"},
    "flows": {"tasks", "infra", "sft_core.config", "sft_core.masking", "sft_core.errors", "sft_core.names",
              "sft_core.stopping", "sft_core.visible"},
}
LAYERS = {
    "sft_core": ("masking", "visible", "errors", "names", "conversation", "stopping", "locks", "stage", "versions",
                 "progress", "config", "tiny", "templates", "data", "synth", "model", "train", "doctor"),
    "eval_suites": ("results", "statistics", "refusal", "scorers", "suites", "backends", "judge", "verifiers",
                    "lm_door", "asking", "verdict", "front", "report", "parity"),
}
"""Within a core: each room or file imports only from itself and from those before it."""
DOORS = {
    "mlflow": {"infra/tracking.py", "infra/registry.py", "infra/door.py"},
    "optuna": {"infra/study.py", "infra/samplers.py", "infra/stored.py", "infra/study_rows.py",
               "infra/study_storage.py", "infra/importances.py"},
    "lm_eval": {"eval_suites/lm_door"},
    **dict.fromkeys(("dask", "distributed", "prefect_dask"), {"infra/dask.py"}),
}
ONLY_IN = {"prefect": {"tasks", "flows", "infra"}}


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(file: Path) -> list[tuple[int, str]]:
    """Every imported dotted name with its line, late imports and `from x import y` as `x.y` included."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def breaks(room: str, relative: str, name: str) -> str | None:
    """Why this import is not allowed in this file, or None."""
    top = name.split(".")[0]
    if top in ROOMS and top != room and not any(
        name == allowed or name.startswith(allowed + ".") for allowed in MAY_IMPORT[room]
    ):
        return f"{room} may import only {sorted(MAY_IMPORT[room]) or 'nothing'} of ours"
    if room in LAYERS and top == room and (why := _upward(room, relative, name)):
        return why
    doors = {d for d in DOORS.get(top, {relative}) if relative == d or relative.startswith(d.removesuffix(".py") + "/")}
    if not doors:
        return f"{top} is imported only by {sorted(DOORS[top])}"
    if top in ONLY_IN and room not in ONLY_IN[top]:
        return f"{top} is imported only in {sorted(ONLY_IN[top])}"
    return None


def _upward(room: str, relative: str, name: str) -> str | None:
    """Why an import within a core points upward, or None."""
    order = LAYERS[room]
    here, there = Path(relative).parts[1].removesuffix(".py"), (name.split(".") + [""])[1]
    if here == "__init__" or there not in order or order.index(there) <= order.index(here):
        return None
    return f"{here} stands below {there} and must not know it"


@pytest.mark.parametrize("room", LAYERS)
def test_layers_name_everything(room: str) -> None:
    there = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == set(LAYERS[room])


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_the_table_allows(room: str) -> None:
    files = python_files(room)
    assert len(files) > 2
    problems = []
    for file in files:
        relative = file.relative_to(ROOT).as_posix()
        problems += [
            f"{relative}:{line}: {name}: {why}" for line, name in imports(file) if (why := breaks(room, relative, name))
        ]
    assert not problems, "\n".join(problems)


def test_the_rule_itself_can_fail() -> None:
    assert breaks("sft_core", "sft_core/x.py", "infra.settings")
    assert breaks("infra", "infra/x.py", "sft_core.config")
    assert breaks("tasks", "tasks/x.py", "mlflow")
    assert breaks("sft_core", "sft_core/model/load.py", "sft_core.train.step.Step")
    assert breaks("sft_core", "sft_core/train/step.py", "sft_core.model.load.load") is None
    assert breaks("eval_suites", "eval_suites/x.py", "prefect.task")
    assert breaks("infra", "infra/tracking.py", "mlflow") is None
    assert breaks("tasks", "tasks/x.py", "distributed.Client")


@pytest.mark.parametrize("room", ["sft_core", "eval_suites"])
def test_core_reads_no_environment_variable(room: str) -> None:
    for file in python_files(room):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            assert name not in {"os.environ", "os.getenv"}, f"{file}:{node.lineno} reads the environment"


def test_no_module_hides_the_tasks_package() -> None:
    assert not (ROOT / "tests" / "tasks").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_rooms_are_imported_from_this_checkout(tmp_path: Path) -> None:
    """The editable finder comes after site-packages: a package of the same name there would win silently."""
    code = f"import {', '.join(ROOMS)}; print(*[m.__file__ for m in ({', '.join(ROOMS)})], sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(line).parent for line in done.stdout.split()] == [ROOT / room for room in ROOMS]


def test_an_evaluation_imports_without_mlflow(tmp_path: Path) -> None:
    code = "import sys, flows.evaluation; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_flows_import_without_torch(tmp_path: Path) -> None:
    code = "import sys, flows.cli; print([m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
