"""What a stage's code is: everything its entry point reaches, and nothing else."""

from pathlib import Path

import pytest

from sft_core.versions import code_files

TREE = {
    "sft_core/__init__.py": '"""A map."""\n',
    "sft_core/start.py": "import json\nimport torch\nfrom sft_core.room import inner\nfrom sft_core.near import name\n",
    "sft_core/near.py": "def name():\n    if True:\n        from sft_core import late\n",
    "sft_core/late.py": "try:\n    pass\nexcept ValueError:\n    import eval_suites.far\n",
    "sft_core/alone.py": "print()\n",
    "sft_core/room/__init__.py": "RATE = 1\n",
    "sft_core/room/inner.py": "x = 1\n",
    "sft_core/room/other.py": "x = 1\n",
    "sft_core/room/words.txt": "",
    "sft_core/room/more/deep/task.py": "",
    "sft_core/room/more/template_without_ending": "",
    "sft_core/room/sub/__init__.py": "",
    "sft_core/room/sub/its_own.json": "",
    "sft_core/room/__pycache__/inner.pyc": "",
    "eval_suites/__init__.py": "",
    "eval_suites/far.py": "import tasks.stages\nfrom sft_core import start\n",
    "tasks/__init__.py": "",
    "tasks/stages.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def files(tree: Path, *entries: str, beyond: tuple[str, ...] = ()) -> list[str]:
    return [file.relative_to(tree).as_posix() for file in code_files(*entries, beyond=beyond, root=tree)]


def test_all_that_an_entry_reaches_counts_and_nothing_else(tree: Path) -> None:
    assert files(tree, "sft_core.start") == [
        "eval_suites/far.py", "sft_core/late.py", "sft_core/near.py", "sft_core/room/__init__.py",
        "sft_core/room/inner.py", "sft_core/room/more/deep/task.py", "sft_core/room/more/template_without_ending",
        "sft_core/room/words.txt", "sft_core/start.py"]
    assert files(tree, "sft_core.room.sub") == [
        "sft_core/room/__init__.py", "sft_core/room/more/deep/task.py", "sft_core/room/more/template_without_ending",
        "sft_core/room/sub/its_own.json", "sft_core/room/words.txt"]
    assert files(tree, "sft_core.alone", "sft_core.late", beyond=("eval_suites", "sft_core.al")) == [
        "sft_core/alone.py", "sft_core/late.py"]


def test_an_entry_that_moved_is_told(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"no module sft_core\.gone; entry points are dotted names"):
        files(tree, "sft_core.gone")
