"""Checkpoints under both engines: what is damaged is skipped, what cannot be read just now ends the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import launch, trainer, trl_engine
from sft_core.train.inputs import TrainInputs

Section = Callable[..., TrainSection]
WEIGHTS = {"native": "weights.safetensors", "trl": "model.safetensors"}
STATE = {"native": "state.pt", "trl": "optimizer.pt"}
CHANGING = {"time", "tokens_per_s", "seconds", "saving_s", "peak_rss_bytes"}


def _train(engine: str, inputs: TrainInputs, section: TrainSection, out: Path) -> Any:
    return (trl_engine if engine == "trl" else trainer).train(inputs, section, out)


def _newest_first(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("*-*"), key=lambda folder: -int(folder.name.partition("-")[2]))


def _events(out: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CHANGING} for line in lines
            if line["event"] in kinds]


@pytest.mark.parametrize("engine", ["native", "trl"])
def test_damaged_checkpoints_are_skipped_and_good_ones_stay(
        engine: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Cut, of noise, half removed: three in one run, which then keeps as few good ones as it is asked to."""
    if engine == "trl":
        pytest.importorskip("trl")
    section = train_section(engine=engine, checkpoint_every_s=1e-6, keep_checkpoints=4, epochs=2, micro_rows=4)
    whole = _train(engine, train_inputs, section, tmp_path / "run")
    weights = (whole.model_folder / "model.safetensors").read_bytes()
    steps = _events(tmp_path / "run", "step", "validation")
    one, two, three, good = _newest_first(tmp_path / "run")
    cut = (one / WEIGHTS[engine]).read_bytes()
    (one / WEIGHTS[engine]).write_bytes(cut[: len(cut) // 2])
    (two / STATE[engine]).write_bytes(b"noise" * 100)
    (three / STATE[engine]).unlink()
    last = section.model_copy(update={"keep_checkpoints": 1})
    again = _train(engine, train_inputs, last, tmp_path / "run")
    assert again.resumed_from == int(good.name.partition("-")[2])
    told = _events(tmp_path / "run", "resume")[-1]["skipped_checkpoints"]
    assert [line.partition(":")[0] for line in told] == [one.name, two.name, three.name]
    assert [folder.name for folder in _newest_first(tmp_path / "run")] == [one.name], "the last one, written anew"
    assert (again.model_folder / "model.safetensors").read_bytes() == weights
    assert _events(tmp_path / "run", "step", "validation") == steps


@pytest.mark.parametrize("engine", ["native", "trl"])
def test_a_disk_that_does_not_answer_ends_the_run_and_loses_nothing(
        engine: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    if engine == "trl":
        pytest.importorskip("trl")
    section = train_section(engine=engine, checkpoint_every_s=1e-6, micro_rows=4)
    whole = _train(engine, train_inputs, section, tmp_path / "run")
    before, folders = (tmp_path / "run" / "events.jsonl").read_bytes(), _newest_first(tmp_path / "run")
    victim = folders[0] / WEIGHTS[engine]
    kept = victim.read_bytes()
    victim.unlink()
    victim.symlink_to("/proc/self/mem")  # a real EIO at the first byte
    with pytest.raises(TrainingError, match=rf"{folders[0].name} cannot be read: OSError: .*start the run again"):
        _train(engine, train_inputs, section, tmp_path / "run")
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before
    assert _newest_first(tmp_path / "run") == folders
    victim.unlink()
    victim.write_bytes(kept)
    assert _train(engine, train_inputs, section, tmp_path / "run").resumed_from == whole.steps


def test_several_processes_hear_of_it_from_the_first(train_inputs: TrainInputs, train_section: Section,
                                                     tmp_path: Path) -> None:
    """None of them begins anew while another waits, and what one skips all skip."""
    section = train_section(checkpoint_every_s=1e-6, keep_checkpoints=3)
    trainer.train(train_inputs, section, tmp_path)
    two = section.model_copy(update={"processes": 2})
    before, (one, good, _) = (tmp_path / "events.jsonl").read_bytes(), _newest_first(tmp_path)
    meta = (one / "meta.json").read_bytes()
    (one / "meta.json").unlink()
    (one / "meta.json").symlink_to("/proc/self/mem")
    with pytest.raises(TrainingError, match=rf"{one.name} cannot be read: OSError"):
        launch.launch(train_inputs, two, tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == before
    (one / "meta.json").unlink()
    (one / "meta.json").write_bytes(meta[: len(meta) // 2])
    assert launch.launch(train_inputs, two, tmp_path).resumed_from == int(good.name.partition("-")[2])


def test_what_trl_cannot_load_is_told_in_a_sentence(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from trl import SFTTrainer

    section = train_section(engine="trl", checkpoint_every_s=1e-6, micro_rows=4)
    trl_engine.train(train_inputs, section, tmp_path)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SFTTrainer, "_load_optimizer_and_scheduler", no_memory)
    with pytest.raises(TrainingError, match=r"checkpoint-\d+ cannot be read: MemoryError"):
        trl_engine.train(train_inputs, section, tmp_path)


@pytest.mark.parametrize("engine", ["native", "trl"])
def test_checkpoints_that_are_gone_or_changed_never_cut_the_diary(
        engine: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """A link to a disk that is not mounted, a folder that was emptied; one changed bit goes on from the older one."""
    if engine == "trl":
        pytest.importorskip("trl")
    section, run = train_section(engine=engine, checkpoint_every_s=1e-6, micro_rows=4), tmp_path / "run"
    whole = _train(engine, train_inputs, section, run)
    before, root, away = (run / "events.jsonl").read_bytes(), run / "checkpoints", tmp_path / "away"
    root.rename(away)
    with pytest.raises(TrainingError, match=r"no checkpoint, but .*events\.jsonl tells"):
        _train(engine, train_inputs, section, run)
    shutil.rmtree(root, ignore_errors=True)
    root.symlink_to(tmp_path / "unmounted")
    with pytest.raises(TrainingError, match="checkpoints cannot be read: .*mounted"):
        _train(engine, train_inputs, section, run)
    assert (run / "events.jsonl").read_bytes() == before
    root.unlink()
    away.rename(root)
    meta = _newest_first(run)[0] / "meta.json"
    meta.write_text(meta.read_text().replace(f'"step": {whole.steps}', f'"step": {whole.steps ^ 1}'))
    again = _train(engine, train_inputs, section, run)
    assert (again.resumed_from, again.tokens) == (whole.steps - 1, whole.tokens)
