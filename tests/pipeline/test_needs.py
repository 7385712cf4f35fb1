"""What a run needs is looked at before anything is started, and all that is missing is told at once."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import nltk
import pytest
import yaml

from eval_suites.asking.needs import lacking
from eval_suites.lm_door import needs
from sft_core.config.evaluate import EvalSection
from sft_core.config.file import load
from sft_core.data import localhub
from tasks.needs import evaluation_lacks, run_lacks
from tasks.stages import Workspace

Sft = Callable[..., subprocess.CompletedProcess[str]]


def test_all_that_is_missing_is_told_at_once_and_before_anything(sft: Sft, config: Path, home: Path) -> None:
    """`ifeval` was valid and failed minutes later, one thing after the other."""
    settings = yaml.safe_load(config.read_text())
    settings["eval"] |= {"suites": ["tiny_mmlu", "gsm8k", "bfcl", "nosuch", "./no.yaml", "open_ended"],
                         "backend": "vllm", "judge": {
                             "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m", "key_env": "NO_KEY_HERE"},
                             "gold": "no-gold.jsonl"}}
    config.write_text(yaml.safe_dump(settings))
    said = ("needs the data set openai/gsm8k: HF_HUB_OFFLINE is set", "reads bfcl as its authors ship it",
            "there is no suite 'nosuch'", "no.yaml cannot be read", "pip install 'sft-platform[vllm]'",
            "NO_KEY_HERE, which is not set", "no judge answers at http://127.0.0.1:9/v1",
            "no-gold.jsonl cannot be read", "mysql needs the package MySQLdb")
    for command in (("config", "check"), ("run",)):
        done = sft(*command, config, "--set", "tracking.uri=mysql://a@b/c", HF_DATASETS_CACHE=str(home / "none"))
        assert done.returncode == 2, done.stderr
        assert [one for one in said if one not in done.stderr] == []
        assert len(done.stderr.strip().splitlines()) == 1 + len(said), done.stderr
    done = sft("eval", "tiny", "--suite", "gsm8k", "--suite", "bfcl", HF_DATASETS_CACHE=str(home / "none"))
    assert [one for one in said[:2] if one not in done.stderr] == []
    assert not list(home.glob("stages/*"))


def test_an_earlier_download_and_a_mirror_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config as library

    monkeypatch.setattr(library, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(localhub, "knock", lambda _: (_ for _ in ()).throw(OSError("no host")))
    section = EvalSection(suites=("gsm8k",))
    assert "the hub does not give it (no host)" in lacking(section.suites, section, None)[0]
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    assert lacking(section.suites, section, tmp_path) == []
    (tmp_path / "openai___gsm8k").mkdir()
    assert lacking(section.suites, section, None) == []
    monkeypatch.setattr(localhub, "knock", lambda _: None)
    assert lacking(["hellaswag"], section, None) == []


def test_a_judge_that_nobody_asks_is_not_missed(tmp_path: Path) -> None:
    judge = {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    place = Workspace(tmp_path, None)
    assert evaluation_lacks(EvalSection.model_validate({"suites": ["tiny_mmlu"], "judge": judge}), place) == []
    asked = {"suites": ["tiny_mmlu"], "judge": judge, "refusal_scorer": "judge"}
    assert len(evaluation_lacks(EvalSection.model_validate(asked), place)) == 1


def test_the_wheel_that_holds_punkt_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where GitHub is out of reach and a package index is not."""
    (tmp_path / needs.IN_WHEEL / needs.PUNKT).mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    said, = needs.missing(["ifeval"])
    assert "pip install --no-deps llama-index-core" in said
    (tmp_path / "llama_index_core-0.1.dist-info").mkdir()
    (tmp_path / "llama_index_core-0.1.dist-info" / "METADATA").write_text("Name: llama-index-core\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert needs.missing(["ifeval"]) == []


@pytest.mark.parametrize("change", [{"train.optim.name": "adamw_8bit"},
                                    {"train.method": "lora", "train.lora.quantize": "nf4"}], ids=str)
def test_bits_need_their_library_before_anything(change: dict[str, str], config: Path, home: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.needs.find_spec", lambda name: None)
    found = load(config, [f"{key}={value}" for key, value in change.items()]).config
    told = run_lacks(found, Workspace(home, None))
    assert [one for one in told if f"{list(change)[-1]}: " in one and "pip install 'sft-platform[qlora]'" in one]
