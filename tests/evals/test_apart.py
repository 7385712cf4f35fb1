"""Evaluation in processes of its own: the same results, errors and stops, and nothing left in the parent."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval_suites.asking import respondent
from eval_suites.asking.run import Out, evaluate
from eval_suites.asking.share import Share, fill
from eval_suites.backends.local import Local
from eval_suites.results import SuiteResult
from infra.settings import gpu_environment, read_settings
from sft_core.config.data import ModelSection
from sft_core.config.evaluate import EvalSection, GateSection
from sft_core.errors import ConfigError, EvalError
from sft_core.model.load import resolve_device
from sft_core.stage import write_json
from sft_core.stopping import sleep
from tasks import evaluate as stage
from tasks import measure
from tasks.apart import Call, apart
from tasks.measure import Against, Asked, floors_of, measured, processes_of
from tasks.stages import Workspace
from tests.evals.test_engine import FORM

ROOT = Path(__file__).parents[2]
SECTION = EvalSection(suites=("refusal", "tiny_mmlu", "perplexity_prose"), limit=4, max_new_tokens=5, floor_items=2)


def asked_of(folder: Path, section: EvalSection = SECTION) -> Asked:
    return Asked(ModelSection(path=str(folder), device="cpu"), section, FORM, None)


def plain(result: SuiteResult) -> list[Any]:
    """What an item comes to; likelihoods differ in their last digits, as batches do."""
    return [(one.item_id, one.answer, one.why, one.asked, one.ids, one.weight, one.score and round(one.score, 4))
            for one in result.items]


def test_two_processes_find_what_one_finds(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the code of several GPUs, suites that end early included, and without loading anything here."""
    write_json(tmp_path / "template.json", FORM._asdict())
    section = SECTION.model_copy(update={"looks": 2})
    subject = stage.Subject("tuned", asked_of(model_folder).model, tmp_path / "template.json")
    base = evaluate(subject.model, ["refusal"], section=section, template=FORM, mirror=None, out=tmp_path / "base")
    capability = replace(base["refusal"], kind="capability")  # equal answers: certainly not more than 100 points worse
    against = Against({"refusal": capability}, GateSection(max_tax=100, max_false_refusals=100))
    here = stage.evaluate.fn(subject, section, Workspace(tmp_path / "a", None), against=against)
    monkeypatch.setattr(stage, "processes_of", lambda *_: 2)
    monkeypatch.setattr(respondent, "load_model", None)
    there = stage.evaluate.fn(subject, section, Workspace(tmp_path / "b", None), against=against)
    assert {name: one.looks for name, one in there.items()} == {
        "refusal": (1, 2), "tiny_mmlu": (2, 2), "perplexity_prose": (2, 2)}
    assert {name: plain(one) for name, one in there.items()} == {name: plain(one) for name, one in here.items()}
    for one, other in zip(there.values(), here.values(), strict=True):
        assert (one.looks, one.protocol_hash, one.backend) == (other.looks, other.protocol_hash, other.backend)


def test_the_floor_too_is_measured_by_a_call_that_can_be_sent(model_folder: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    asked, sent = asked_of(model_folder, SECTION.model_copy(update={"suites": ("refusal",)})), list[Call]()
    results = measured(asked, ["refusal"], Out(tmp_path / "out"), 0)
    here = floors_of(asked, results, 0)
    monkeypatch.setattr(measure, "apart", lambda calls: sent.extend(calls) or [
        pickle.loads(pickle.dumps(call.make))() for call in calls])
    assert floors_of(asked, results, 2) == here
    assert [call.environment for call in sent] == [gpu_environment(0)]


def test_shares_are_all_that_is_asked(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    for name in ("generate", "likelihoods"):
        real = getattr(Local, name)
        monkeypatch.setattr(Local, name, lambda self, some, *stops, real=real: asked.extend(
            getattr(one, "ids", ()) or one.context + one.continuation for one in some) or real(self, some, *stops))
    model, how = asked_of(model_folder).model, {"section": SECTION, "template": FORM, "mirror": None}
    parts = []
    for number in range(3):
        fill(model, SECTION.suites, Share(number, 3, tmp_path / "cache"), **how)
        parts.append(set(asked))
        asked.clear()
    assert all(parts)
    assert not parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]
    evaluate(model, SECTION.suites, **how, out=Out(tmp_path / "whole", tmp_path / "cache"))
    assert asked == []
    evaluate(model, SECTION.suites, **how, out=tmp_path / "fresh")
    assert set(asked) == set.union(*parts)


def test_each_gpu_has_a_process_and_only_of_weights_that_transformers_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, section = ModelSection(path="tiny"), EvalSection(suites=("refusal",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert resolve_device(model).type == "cuda"
    assert processes_of(model, section) == 3
    assert processes_of(model.model_copy(update={"device": "cpu"}), section) == 0
    assert processes_of(model.model_copy(update={"path": "http://host/v1#m"}), section) == 0
    assert processes_of(model, section.model_copy(update={"backend": "vllm"})) == 0


def test_a_process_sees_the_gpu_of_its_number() -> None:
    assert gpu_environment(1, {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert gpu_environment(1, {"CUDA_VISIBLE_DEVICES": "5, GPU-a,7"}) == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    seen = apart([Call(partial(os.getenv, "CUDA_VISIBLE_DEVICES"), gpu_environment(number, {})) for number in (1, 0)])
    assert seen == ["1", "0"]


def test_an_error_is_the_childs_own_and_ends_the_others(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"SFT_HOME=.*file is not a folder"):
        apart([Call(partial(sleep, 300), {}), Call(partial(read_settings, {"SFT_HOME": str(file)}), {})])
    with pytest.raises(EvalError, match=r"ended with code -9 and gave no answer"):
        apart([Call(partial(signal.raise_signal, signal.SIGKILL), {}), Call(partial(sleep, 300), {})])
    with pytest.raises(EvalError, match=r"ended with code 1 .*; it said last: ValueError: .*many"):
        apart([Call(partial(sleep, 300), {}), Call(partial(int, "many"), {})])


PARENT = """
import sys
from functools import partial
from sft_core.stopping import stop_on_signals
from tasks.apart import Call, apart

waiting = '''
import os, sys
from pathlib import Path
from sft_core.stopping import sleep
Path(FILE + "-draft").write_text(str(os.getpid()))
Path(FILE + "-draft").rename(FILE)
sleep(300)
'''
with stop_on_signals():
    apart([Call(partial(exec, waiting.replace("FILE", repr(sys.argv[1]))), {})])
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "Interrupted: stopped by SIGTERM"),
                                              (signal.SIGKILL, "")], ids=["told", "killed"])
def test_a_process_ends_with_its_parent(tmp_path: Path, number: signal.Signals, said: str) -> None:
    def soon(there: Callable[[], bool]) -> None:
        for _ in range(1200):
            if there():
                return
            time.sleep(0.05)
        raise AssertionError("not within a minute")

    file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(file)], cwd=ROOT, text=True, stderr=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:
        soon(lambda: file.exists() or parent.poll() is not None)
        parent.send_signal(number)
        assert said in parent.communicate(timeout=60)[1]
    soon(lambda: not Path("/proc", file.read_text()).exists())
