"""`data.mirror`: ids it names come from its folders, all others from SFT_MIRROR as before."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_core.errors import ConfigError
from tasks.mirror import mirrored
from tasks.stages import Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]


def snapshot(folder: Path, said: str) -> Path:
    """A data set in the hub's shape, of which one can see whose it is."""
    (folder / "default").mkdir(parents=True)
    rows = [{"instruction": f"Say {n}.", "output": f"{said} {n}."} for n in range(40)]
    (folder / "default" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: default/train.jsonl\n---\n")
    return folder


def rows(mirror: Path | None, name: str) -> str:
    assert mirror is not None
    return (mirror / name / "default" / "train.jsonl").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace whose own mirror holds two organisations and an id without one."""
    own = tmp_path / "hub"
    for name in ("one/a", "one/b", "two/c", "old"):
        snapshot(own / name, "own")
    return Workspace(tmp_path / "home", own)


def test_named_ids_come_first_and_the_others_from_the_workspace(place: Workspace, tmp_path: Path) -> None:
    elsewhere = snapshot(tmp_path / "elsewhere", "named")
    made = mirrored(place, {"one/a": str(elsewhere), "three/d": str(elsewhere)}).mirror
    assert "named" in rows(made, "one/a")
    assert "named" in rows(made, "three/d")
    assert all("own" in rows(made, name) for name in ("one/b", "two/c", "old"))
    assert "own" in rows(place.mirror, "one/a")  # untouched
    assert mirrored(place, {"three/d": str(elsewhere), "one/a": str(elsewhere)}).mirror == made


def test_a_folder_goes_before_the_workspaces_own(place: Workspace, tmp_path: Path) -> None:
    snapshot(tmp_path / "other" / "one" / "b", "named")
    snapshot(tmp_path / "other" / "old", "named")
    made = mirrored(place, str(tmp_path / "other")).mirror
    assert all("named" in rows(made, name) for name in ("one/b", "old"))
    assert all("own" in rows(made, name) for name in ("one/a", "two/c"))
    assert mirrored(place._replace(mirror=None), str(tmp_path / "other")).mirror is not None
    assert mirrored(place, None) is place


def test_an_id_below_an_older_one_never_writes_into_the_users_folders(place: Workspace, tmp_path: Path) -> None:
    elsewhere = snapshot(tmp_path / "elsewhere", "named")
    made = mirrored(place, {"old/new": str(elsewhere)}).mirror
    assert "named" in rows(made, "old/new")
    assert place.mirror is not None
    assert not (place.mirror / "old" / "new").exists()


@pytest.mark.parametrize(("mirror", "said"), [
    ("/nowhere", "data.mirror: '/nowhere' is not a folder"), ({"cais/mmlu": "/nowhere"}, r"data.mirror\[cais/mmlu\]"),
    ({"a/b/c": "."}, "is no hub id"), ({"../b": "."}, "is no hub id")])
def test_what_is_wrong_is_named(place: Workspace, mirror: str | dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mirrored(place, mirror)


def test_an_lm_eval_task_finds_its_data_behind_the_option(sft: Sft, tmp_path: Path) -> None:
    """GSM8K in the hub's shape with rows of its own; without the option the message names every way to give it."""
    asked = ("eval", "tiny", "--suite", "gsm8k", "--limit", "1", "--max-new-tokens", "8")
    missing = sft(*asked)
    assert missing.returncode == 2
    assert all(way in missing.stderr for way in ("openai/gsm8k", "SFT_MIRROR", "--mirror", "data.mirror"))
    folder = tmp_path / "hub" / "openai" / "gsm8k"
    (folder / "main").mkdir(parents=True)
    row = {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
    for split in ("train", "test"):
        (folder / "main" / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * 8)
    files = "".join(f"  - {{split: {split}, path: main/{split}.jsonl}}\n" for split in ("train", "test"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
    found = sft(*asked, "--mirror", tmp_path / "hub")
    assert found.returncode == 0, found.stderr
    assert "gsm8k" in found.stdout


def test_data_of_a_configuration_come_from_its_mirror(sft: Sft, config: Path, tmp_path: Path) -> None:
    """The real command, without SFT_MIRROR and without a network."""
    folder = snapshot(tmp_path / "chats", "named")
    source = "data.sources=[{path: someone/chats, subset: default}]"
    without = sft("data", "show", config, "--set", source)
    assert without.returncode == 1
    assert "someone/chats" in without.stderr
    shown = sft("data", "show", config, "--set", source, "--set", f"data.mirror={{someone/chats: {folder}}}")
    assert shown.returncode == 0, shown.stderr
    assert "named" in shown.stdout
