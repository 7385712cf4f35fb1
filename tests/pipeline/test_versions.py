"""Which edit of the code redoes which stage: on a copy of the tree, one file of each kind edited."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft_core.versions import COMPUTING, ROOT, code_files, digest
from tasks.stages import BEYOND, CODE

SCORING = ("eval_suites.scorers.registry",)
ASKING = {"probe", "evaluate", "floors"}
EDITS = {
    "eval_suites/report/tables.py": set(),
    "eval_suites/judge/calibration.json": set(),  # counts that only the report corrects rates with
    "eval_suites/judge/gold.jsonl": set(),
    "eval_suites/__init__.py": set(),
    "sft_core/doctor/examine.py": set(),
    "sft_core/model/load.py": {"prepare", "reference", "train", "interpolate", *ASKING},
    "sft_core/templates/chatml.jinja": {"prepare", "reference", "train", "interpolate", *ASKING},
    "sft_core/data/formats.py": {"prepare"},
    "sft_core/tiny/base/model.safetensors": {"prepare", "reference", "train", "interpolate", *ASKING},
    "sft_core/train/trainer.py": {"train"},
    "sft_core/train/interpolate.py": {"interpolate"},
    "sft_core/train/trl_bridge.py": {"train"},
    "sft_core/train/objective.py": {"reference", "train"},
    "eval_suites/suites/refusal.yaml": {"questions", *ASKING},
    "eval_suites/suites/rows/refusal.jsonl": {"questions", *ASKING},
    "eval_suites/suites/lm_tasks/tiny_world/utils.py": {"questions", *ASKING},
    "eval_suites/suites/lm_tasks/tiny_world/_tiny_mmlu_template_yaml": {"questions", *ASKING},
    "eval_suites/scorers/markdown.py": {*ASKING, "protocol"},
    "eval_suites/refusal/patterns.py": {*ASKING, "protocol"},
    "eval_suites/asking/again.py": {"floors"},
    "eval_suites/asking/probe.py": {"probe"},
    "eval_suites/verdict/power.py": {"power", "verdict"},
    "eval_suites/verdict/sequential.py": {"looks", "power", "verdict"},
    "eval_suites/verdict/flips.py": set(),
    "eval_suites/statistics/bootstrap.py": {"looks", "power", "verdict"},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for package in COMPUTING:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def versions(root: Path) -> dict[str, str]:
    found = {what: digest(code_files(*entries, beyond=BEYOND.get(what, ()), root=root))
             for what, entries in CODE.items()}
    scoring = code_files(*SCORING, beyond=("sft_core", "eval_suites.results"), root=root)
    return found | {"protocol": digest(scoring)}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_redoes_what_reaches_it_and_nothing_else(tree: Path, name: str) -> None:
    before, file = versions(tree), tree / name
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b'"""', b'"""And ', 1) if file.name == "__init__.py" else kept + b"\n")
    try:
        changed = {what for what, version in versions(tree).items() if version != before[what]}
    finally:
        file.write_bytes(kept)
    assert changed == EDITS[name]
    assert versions(tree) == before


def test_every_shipped_data_file_belongs_to_something(tree: Path) -> None:
    reached = set(code_files(*(entry for entries in CODE.values() for entry in entries),
                             "eval_suites.judge.human", "sft_core.synth.seeds", root=tree))
    data = {file for file in tree.rglob("*") if file.is_file() and file.suffix != ".py"}
    assert data - reached == set()


def test_versions_bring_no_torch(tmp_path: Path) -> None:
    code = ("import sys, tasks.stages\n"
            "[tasks.stages.version(what) for what in tasks.stages.CODE]\n"
            "print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
