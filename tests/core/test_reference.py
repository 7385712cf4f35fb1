"""The kept base: looked up only for the stream that it was kept of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sft_core.config.train import TrainSection
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up


@pytest.mark.parametrize("on", ["assistant", "replay", "both"])
def test_validation_asks_nothing_of_a_base_that_was_kept_of_other_examples(
        on: str, train_inputs: TrainInputs, train_section: Callable[..., TrainSection],
        write_prepared: Callable[..., Path], tmp_path: Path) -> None:
    """Four examples are held out and two trained on: what is kept has no place for the last of them."""
    few = replace(train_inputs, prepared=write_prepared(tmp_path / "prepared", train=2))
    told = {}
    for name, kl in (("exact", {}), ("cache", {"reference": "cache", "top_k": 63})):
        section = train_section(rows_per_step=1, validate_every_steps=1,
                                kl={"beta": 0.5, "on": on, **kl})
        told[name] = [loss for _, loss in train(few, section, tmp_path / name).validation]
    assert told["cache"] == pytest.approx(told["exact"], rel=1e-4)
    bench = set_up(with_reference(few, section, tmp_path / "cache" / "reference"), section)
    assert len(bench.validation.examples) > len(bench.course.sft.examples)
    assert bench.micro(bench.validation, bench.validation.rows).kept is None
    kept = {name for name, stream in bench.course.streams.items() if bench.micro(stream, stream.rows[:1]).kept}
    assert kept == set(section.kl.streams)


@pytest.mark.parametrize("top_k", [64, 2000])
def test_more_likeliest_tokens_than_there_are_is_the_whole_base(
        top_k: int, train_inputs: TrainInputs, train_section: Callable[..., TrainSection], tmp_path: Path) -> None:
    """The vocabulary has 64 tokens: all but one are kept, and the one is the rest."""
    told = {}
    for name, kl in (("exact", {}), ("cache", {"reference": "cache", "top_k": top_k})):
        section = train_section(epochs=1, kl={"beta": 0.5, "on": "both", **kl})
        told[name] = train(train_inputs, section, tmp_path / name).final.loss
    assert told["cache"] == pytest.approx(told["exact"], rel=1e-4)
