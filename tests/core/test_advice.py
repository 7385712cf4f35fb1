"""The outlook of a run against what the run then does, and what is said of plans that hardly anybody wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft_core.config.data import DataSection
from sft_core.config.mixture import MixtureSection, SourceMixSection
from sft_core.config.train import TrainSection
from sft_core.data.mix.plan import Mixing
from sft_core.train.advice import Foreseen, advice, usual_rate
from sft_core.train.inputs import TrainInputs
from sft_core.train.outlook import Outlook, look_ahead
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
SOURCE = {"source": "train", "read": 24, "kept": 24, "truncated": 0, "rejected": {}, "held_out": 0,
          "trained_tokens": 100}
DATA = {"sources": [{"path": "rows.jsonl"}], "max_tokens": 32}


@pytest.fixture
def usual(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> Callable[..., Outlook]:
    """A run of 120 steps of one row each, changed as asked for."""

    def look(grow: float = 8.0, **fields: Any) -> Outlook:
        changed = {"lr": 2e-3, "rows_per_step": 1, "epochs": 2.0, **fields}
        return look_ahead(train_inputs, train_section(**changed), tmp_path, grow)

    return look


def said(outlook: Outlook, *sources: dict[str, Any], seconds: float | None = None, **data: Any) -> list[str]:
    ledger = {"sources": list(sources) or [SOURCE]}
    return advice(Foreseen(outlook, DataSection.model_validate({**DATA, **data}), ledger, seconds))


def test_the_outlook_is_what_the_run_does(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    section = train_section(epochs=1.5, lambda_=0.5, validate_every_steps=3)
    foreseen = look_ahead(train_inputs, section, tmp_path)
    report = train(train_inputs, section, tmp_path / "out")
    assert foreseen.steps == report.steps > 2
    assert foreseen.validations == len(report.validation)
    assert (foreseen.trained.rows, foreseen.trained.tokens, foreseen.trained.trained_tokens) == (
        report.rows, report.tokens, report.trained_tokens)
    assert foreseen.replayed.tokens == report.replay_tokens > 0


def test_a_sample_stands_for_all_rows(usual: Callable[..., Outlook]) -> None:
    one, four = usual(grow=1.0), usual(grow=4.0)
    assert len(four.data.course.sft.examples) == 4 * len(one.data.course.sft.examples)
    assert four.epoch.tokens == 4 * one.epoch.tokens
    assert four.steps == pytest.approx(4 * one.steps, rel=0.1)


def test_of_a_usual_plan_nothing_is_said(usual: Callable[..., Outlook]) -> None:
    assert usual().steps > 100
    assert said(usual(), seconds=3600.0) == []


@pytest.mark.parametrize(("changes", "expected"), [
    ({"rows_per_step": 64}, ("optimiser steps of", "set train.rows_per_step: ")),
    ({"tokens_per_step": 100_000}, ("optimiser steps of", "set train.tokens_per_step: 1")),
    ({"optim": {"lr": 2e-3, "warmup_share": 0.9}}, ("warm-up takes", "train.optim.warmup_share (now 0.9) to 0.1")),
    ({"lr": 0.5}, ("train.optim.lr 0.5 is far too high for train.method: full", "about 2e-03 is usual")),
    ({"lr": 1e-6}, ("train.optim.lr 1e-06 is far too low", "set train.optim.lr")),
    ({"epochs": 30.0}, ("every example is seen 30 times", "set train.epochs lower")),
    ({"grow": 1.0, "epochs": 1.0}, ("24 training examples in 1 epochs: hardly anything", "give more data.sources")),
    ({"grow": 1.0, "epochs": 5.0}, ("4 examples are held out", "set data.validation_share (now 0.02) higher")),
    ({"stopping": {"patience": 2}, "validate_every_steps": 500}, ("it can never stop", "train.validate_every_steps")),
    ({"checkpoint_every_s": 9000.0}, ("a checkpoint every 9,000 s", "set train.checkpoint_every_s to 300")),
])
def test_what_is_odd_is_said_with_what_to_set(usual: Callable[..., Outlook], changes: dict[str, Any],
                                             expected: tuple[str, ...]) -> None:
    found = said(usual(**changes), seconds=3600.0)
    assert any(all(part in one for part in expected) for one in found), found


def test_rows_that_are_lost_cut_or_drowned_are_said(usual: Callable[..., Outlook]) -> None:
    lost = {**SOURCE, "read": 100, "rejected": {"too_long": 70, "wrong_type": 6}}
    assert "train: only 24 of 100 rows are used (too_long 70, wrong_type 6)" in said(usual(), lost)[0]
    assert "; set data.max_tokens (now 32) higher, up to 128 for this base" in said(usual(), lost)[0]
    full = said(usual(), lost, {**SOURCE, "truncated": 20}, max_tokens=128)
    assert all("this base goes no further than data.max_tokens (128): take one with more" in one for one in full), full
    chosen = {**SOURCE, "read": 1000, "rejected": {"not_selected": 900, "length": 40, "too_long": 36}}
    assert said(usual(), chosen) == ["train: only 24 of 100 rows are used, without 900 that data.select leaves out "
                                     "(length 40, too_long 36); read the others with `sft data show CONFIG --rejected`"]
    assert said(usual(), {**SOURCE, "read": 924, "rejected": {"not_selected": 900}}) == []
    assert "20 of 24 conversations are cut to fit; set data.max_tokens (now 32)" in said(
        usual(), {**SOURCE, "truncated": 20})[0]
    small = {**SOURCE, "source": "small", "trained_tokens": 3}
    assert "train has 97 % of all trained tokens" in said(usual(), SOURCE, small)[0]
    assert not said(usual(), SOURCE, {**small, "trained_tokens": 0, "held_out": 24})


def test_what_does_not_fit_is_said_with_what_would(usual: Callable[..., Outlook]) -> None:
    tight = replace(usual(), free=1000, disk_free=1000)
    memory, disk = said(tight)
    assert "GiB of memory are needed and 0 MiB are free on cpu: forecast now" in memory
    assert "train.keep_checkpoints lower" in disk


def test_the_usual_rate_falls_with_size_and_is_higher_for_adapters() -> None:
    assert usual_rate(7_000_000_000, "full") == pytest.approx(2e-5)
    assert usual_rate(7_000_000_000, "lora") == pytest.approx(2e-4)
    assert 5e-5 < usual_rate(135_000_000, "full") < 3e-4
    assert usual_rate(1_000_000, "lora") == 2e-3


def test_a_mixture_is_judged_by_what_it_brings(train_inputs: TrainInputs, train_section: Section,
                                               tmp_path: Path) -> None:
    mixing = Mixing(MixtureSection(size=400, most_repeats=99), {"train": SourceMixSection()})
    section = train_section(epochs=13, rows_per_step=1, lr=2e-3)
    mixed = look_ahead(replace(train_inputs, mixing=mixing), section, tmp_path)
    assert mixed.epoch.trained_tokens == pytest.approx(400, abs=10)
    assert [str(row).split(", ")[2:] for row in mixed.mixed] == [["24 of 24 examples", "each up to 32×"]]
    told = said(mixed, SOURCE, {**SOURCE, "source": "other", "trained_tokens": 9999})
    assert any("an example of train is seen 32 times, and will be learnt by heart" in one for one in told), told
    assert not any("other has" in one for one in told), "by what is drawn, not by what is there"


def test_a_mixture_that_uses_little_is_said_first_and_other_hints_fit_it(
    train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
) -> None:
    """Neither smaller steps nor more data make an epoch larger that one source limits."""
    mixing = Mixing(MixtureSection(by="rows"), {"train": SourceMixSection(epochs=0.2), "other": SourceMixSection()})
    whole = look_ahead(replace(train_inputs, mixing=mixing), train_section(rows_per_step=4, lr=2e-3), tmp_path)
    assert (whole.used, whole.examples) == (4, "4 of 24")
    assert whole.data.mixture is not None
    small = replace(whole, data=replace(whole.data, mixture=replace(whole.data.mixture, narrow="one limits it")))
    first, *others = said(small)
    assert first == "data.mixture: one limits it"
    assert [one for one in others if "optimiser steps" in one or "hardly anything" in one] == [
        f"only {whole.steps} optimiser steps of {whole.trained.rows} rows (packed from 4 of 24 examples): too few for "
        "a schedule to mean anything; let the mixture use more of the examples",
        "4 of 24 training examples in 1 epochs: hardly anything can be learnt; let the mixture use more of them"]


def test_smaller_steps_are_no_advice_where_each_has_one_row(usual: Callable[..., Outlook]) -> None:
    (few,) = (one for one in said(usual(grow=0.5, epochs=1.0)) if "optimiser steps" in one)
    assert "rows_per_step" not in few
    assert few.endswith("set a larger train.epochs (now 1), or give more data")
