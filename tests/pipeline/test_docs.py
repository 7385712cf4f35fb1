"""Every block of README and docs: run on the tiny world where that is quick, else checked as far as it can be here.

A comment in front of a block of commands says which: `<!-- run -->`, or `<!-- not run: WHY -->`. `<!-- file: NAME -->`
puts a block into the folder in which those of its page are run. `text` is for what nobody gives to a program.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from mlflow import MlflowClient

from eval_suites.suites.suite import Suite
from flows.reference.commands import EXAMPLES
from flows.reference.files import FILES
from flows.reference.metrics import GROUPS
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import examine
from sft_core.config.synth_file import load_synth
from tests.pipeline.blocks import CONFIGS, INLINE, PAGES, ROOT, Block, Wrong, blocks, check, check_sft, heredocs, lines
from tests.pipeline.conftest import Warm, environment

BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if block.mark == "run"]
NEEDS = re.compile(r"GPU|network|minutes|server|machine|installs|model|data|suite|template|mirror")
"""What a block may lack here."""


def named(found: list[Block]) -> Any:
    return pytest.mark.parametrize("block", found, ids=lambda block: block.name)


def test_there_are_blocks_of_every_kind() -> None:
    assert {"bash", "python", "yaml", "json", "text"} == {block.language for block in BLOCKS}
    assert len(RUN) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    assert not re.findall(r"\n\n {4}(?:sft|make|prefect|export|\$) .*", text)


@named([block for block in BLOCKS if block.language == "bash"])
def test_commands_can_be_given_so(block: Block) -> None:
    said = block.mark.removeprefix("not run: ")
    assert block.mark == "run" or NEEDS.search(said), "say <!-- run --> in front of it, or <!-- not run: WHY -->"
    for words in lines(block.text):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_sentences_can_be_given_so(page: Path) -> None:
    for said in INLINE.findall(page.read_text(encoding="utf-8")):
        words = [word for word in shlex.split(re.sub(r"[\[\]…]", "", said)) if word != "OPTIONS"]
        if words[1] != "COMMAND":
            check_sft(words[1:], whole=False)


@pytest.mark.parametrize("said", EXAMPLES.values())
def test_the_example_of_a_command_can_be_given_so(said: str) -> None:
    check(lines(said)[0])


@pytest.mark.parametrize("line", ["sft rnu x", "sft run demo --sett a=1", "sft run", "sft sweep demo --workers two",
                                  "sft eval tiny --suite a --device tpu", "sft eval tiny", "sft clean now", "mkae demo",
                                  "sft run flows/configs/nosuch.yaml", "sft run demo --set train.epoch=1", "make dmeo",
                                  "prefect deployment run sft-nosuch", "SFT_HOEM=x sft runs", "python -m bench.nosuch"])
def test_the_rule_itself_can_fail(line: str) -> None:
    with pytest.raises(Wrong):
        check(lines(line)[0])


def whole(data: dict[str, Any]) -> tuple[Path, list[str]]:
    """A part of a configuration, in the shipped one that has its place: the file, and what is set in it."""
    if data.keys() <= {"space", "constraints", "rungs", "points"}:
        again = ["search.points=[]"] if "space" in data else []
        return CONFIGS / "sweep.yaml", [*again, *(f"search.{key}={json.dumps(value)}" for key, value in data.items())]
    suites = {name for key in ("margins", "at_least") for name in data.get("gate", {}).get(key, {})}
    asked = sorted({*suites, *data.get("gate", {}).get("must_improve", [])})
    return CONFIGS / "demo.yaml", [f"eval.suites={json.dumps(asked)}",
                                   *(f"{key}={json.dumps(value)}" for key, value in data.items())]


def configured(text: str, folder: Path) -> list[str]:
    """What is wrong with a configuration or a part of one."""
    data = yaml.safe_load(text)
    if {"name", "model", "data", "train", "eval"} <= data.keys():
        (file := folder / "block.yaml").write_text(text, encoding="utf-8")
        return list(examine(file).problems)
    if "engine" in data:
        Suite.model_validate({"name": "mine", **data})
        return []
    if "generator" in data:
        (file := folder / "synth.yaml").write_text(text, encoding="utf-8")
        load_synth(file)
        return []
    assert data.keys() <= ExperimentConfig.model_fields.keys() | {"space", "constraints", "rungs", "points"}
    return list(examine(*whole(data)).problems)


@named([block for block in BLOCKS if block.language == "yaml"])
def test_a_configuration_is_taken(block: Block, tmp_path: Path) -> None:
    assert not configured(block.text, tmp_path)


def test_a_configuration_can_be_refused(tmp_path: Path) -> None:
    assert configured("gate: {max_taxx: 1.0}", tmp_path)
    assert configured("rungs: {train: [0.5, 0.25], items: [1, 1]}", tmp_path)


@named([block for block in BLOCKS if block.language == "json"])
def test_every_line_is_json(block: Block) -> None:
    assert [json.loads(line) for line in block.text.splitlines()]


@named([block for block in BLOCKS if block.language == "python"])
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(block.text, block.name, "exec"), names)
    assert len(names) > 2, "it defines nothing"


class Reader(NamedTuple):
    """Somebody who gives the commands of all pages in one folder and one workspace."""

    folder: Path
    home: Path
    api: str
    warm: Warm

    def goes_through(self, block: Block) -> str:
        """What the commands of a block say."""
        asides = {other.mark.removeprefix("file: "): other.text for other in BLOCKS
                  if other.page == block.page and other.mark.startswith("file: ")}
        for name, text in (asides | heredocs(block.text)).items():
            (self.folder / name).write_text(text, encoding="utf-8")
        said = ""
        for program, *words in lines(block.text):
            assert program == "sft", f"{program} is not run here"
            known = {"CONFIG": "my.yaml", "RUN": next((run.name for run in self.home.glob("runs/*")), "")}
            given = [known.get(word, word) for word in words]
            done = self.warm.run(given, environment(self.home, self.api), self.folder)
            assert done.returncode == 0, f"sft {' '.join(words)}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
        return said


def test_what_is_run_runs(tmp_path: Path, prefect_api: str, warm: Warm) -> None:
    """The tutorial first, whose files the others use. Files and metrics of its run are those of the reference."""
    reader = Reader(tmp_path, tmp_path / "home", prefect_api, warm)
    ordered = sorted(RUN, key=lambda block: (block.page.name != "TUTORIAL.md", block.page.name, block.line))
    said = "".join(map(reader.goes_through, ordered))
    assert "Gate: undecided. " in said, "the tutorial says so"
    assert "When do you open?" in said, "sft data show prints the rows"

    (folder,) = reader.home.glob("runs/mine-*")
    there = {path.name for path in folder.iterdir()} | {path.name for path in reader.home.iterdir()}
    told = {part for path in FILES for one in path.split(" and ") for part in one.split("/")}
    assert not there - told, "name it in flows/reference/files.py, then `make reference`"

    client = MlflowClient(tracking_uri=f"sqlite:///{reader.home}/mlflow.db")
    metrics = client.get_run(json.loads((folder / "run.json").read_text())["mlflow_run_id"]).data.metrics
    patterns = [re.compile(re.sub(r"SUITE|READING|FIELD", r"[^/]+", re.escape(name)).replace("GROUP", "[a-z]+"))
                for listed in GROUPS.values() for one in listed for name in one.pattern.split(", ")]
    assert len(metrics) > 10
    assert not [name for name in metrics if not any(one.fullmatch(name) for one in patterns)]


def test_the_site_is_built_with_strict_links_and_loads_nothing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("zensical.toml", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:link|script|img)\b[^>]*?(?:href|src)=\"?(?:https?:)?//[^ \">]+", text), page
