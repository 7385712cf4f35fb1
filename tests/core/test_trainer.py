"""The loop: counters, events, normalisers, the effect of λ and β, and errors that name what went wrong."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from sft_core.config.train import TrainSection
from sft_core.conversation import Origin
from sft_core.data.examples import load_examples
from sft_core.errors import DataError, ModelError, TrainingError
from sft_core.model.attention import hidden_of
from sft_core.model.load import LoadedModel
from sft_core.templates.render import IGNORE, Example
from sft_core.train import workbench
from sft_core.train.course import Packing, lay_out
from sft_core.train.inputs import TrainInputs
from sft_core.train.objective import chosen
from sft_core.train.pack import Batch
from sft_core.train.step import Stepper
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up

Section = Callable[..., TrainSection]
FLAGS = {"time", "tokens_per_s", "seconds", "saving_s", "peak_rss_bytes"}


def _events(out: Path, kind: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k not in FLAGS} for e in lines if kind in (None, e["event"])]


def _course(out: Path, term: str) -> list[float]:
    return [e[term] for e in _events(out, "step")]


def test_counters_meet_the_plan_and_every_row_is_seen_once_per_epoch(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    examples = load_examples(train_inputs.prepared / "train.parquet")
    report = train(train_inputs, train_section(epochs=2), tmp_path)
    assert report.tokens == 2 * sum(len(e.input_ids) for e in examples)
    assert report.trained_tokens == 2 * sum(t != IGNORE for e in examples for t in e.targets)
    kinds = [e["event"] for e in _events(tmp_path)]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    last = _events(tmp_path, "step")[-1]
    assert (last["step"], last["tokens"], last["trained_tokens"]) == (report.steps, report.tokens,
                                                                     report.trained_tokens)
    assert _events(tmp_path, "start")[0]["plan"] == {"rows": report.rows, "tokens": report.tokens,
                                                    "trained_tokens": report.trained_tokens}
    assert report.validation[0][0] == 0
    assert report.validation[-1][0] == report.steps
    assert report.validation[-1][1] < report.validation[0][1]
    assert report.peak_rss_bytes > 1e7


def test_every_step_is_told_before_the_follower_hears_of_it(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    seen: list[int] = []
    train(train_inputs, train_section(), tmp_path, sync_every_s=0.0,
          on_events=lambda path: seen.append(len(path.read_text().splitlines())))
    assert seen == sorted(seen)
    assert seen[-1] == len(_events(tmp_path))
    calls: list[Path] = []
    train(train_inputs, train_section(), tmp_path / "b", sync_every_s=60.0, on_events=calls.append)
    assert calls == [tmp_path / "b" / "events.jsonl"]


def test_switched_off_terms_are_not_there_at_all(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """λ = 0 and β = 0 with replay sources named: bit for bit the plain run, and no base is kept."""
    plain = TrainSection.model_validate({"rows_per_step": 4, "micro_rows": 2, "optim": {"lr": 3e-3}})
    train(train_inputs, plain, tmp_path / "plain")
    train(train_inputs, train_section(), tmp_path / "off")
    plain, off = ([one for one in _events(tmp_path / name) if one["event"] != "system"] for name in ("plain", "off"))
    assert plain == off
    a, b = ((tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("plain", "off"))
    assert a == b
    bench = set_up(train_inputs, train_section())
    assert bench.policy.reference is None
    assert bench.course.replay is None


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole trainer in float64."""
    load = workbench.load_model

    def load_double(*args: Any, **kwargs: Any) -> LoadedModel:
        loaded = load(*args, **kwargs)
        return loaded._replace(model=loaded.model.double())

    monkeypatch.setattr(workbench, "load_model", load_double)


@pytest.mark.usefixtures("double")
def test_micro_batches_do_not_change_the_run(train_inputs: TrainInputs, train_section: Section,
                                             tmp_path: Path) -> None:
    """8 × 1 = 1 × 8 through the whole loop, with all three terms, in float64."""
    for name, micro_rows in (("many", 1), ("one", 8)):
        train(train_inputs, train_section(lambda_=0.3, beta=0.5, on="both", rows_per_step=8, micro_rows=micro_rows,
                                          epochs=3), tmp_path / name)
    many, one = _events(tmp_path / "many", "step"), _events(tmp_path / "one", "step")
    assert len(many) == len(one) > 2
    for a, b in zip(many, one, strict=True):
        for term in ("loss", "sft", "replay", "kl", "grad_norm"):
            assert a[term] == pytest.approx(b[term], rel=1e-10, abs=1e-10), (a["step"], term)


@pytest.mark.usefixtures("double")
def test_each_term_is_a_token_mean_over_its_own_positions(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """KL on assistant, replay and both positions: the last is the mean over the union, not a mean of means."""
    found: dict[str, list[float]] = {}
    counts: tuple[int, int] = (0, 0)
    for on in ("assistant", "replay", "both"):
        section = train_section(beta=1.0, on=on, lambda_=0.5)
        bench = set_up(train_inputs, section)
        assert bench.policy.reference is not None
        with torch.no_grad():
            for p in bench.policy.reference.parameters():
                p += 0.02 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
        streams = [s for s in (bench.course.sft, bench.course.replay) if s]
        counts = tuple(s.counts(s.step(0)).trained_tokens for s in streams)  # type: ignore[assignment]
        losses = Stepper(bench, section).take(0).losses
        assert losses.replay is not None
        assert losses.kl is not None
        found[on] = [losses.sft, losses.replay, losses.kl]
    (sft, lm, a), (_, _, r), (_, _, both) = found["assistant"], found["replay"], found["both"]
    assert both == pytest.approx((a * counts[0] + r * counts[1]) / sum(counts), rel=1e-12)
    assert abs(a - r) > 1e-4
    assert found["replay"][:2] == pytest.approx([sft, lm], rel=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("lambda_", "beta", "on"), [(0.3, 0.7, "both"), (0.3, 0.0, "replay"), (0.0, 0.7, "replay"),
                                                     (0.0, 0.7, "assistant")])
def test_the_gradient_of_a_step_is_that_of_the_formula(lambda_: float, beta: float, on: str, tmp_path: Path,
                                                       train_inputs: TrainInputs, train_section: Section) -> None:
    """L = SFT + λ · LM + β · KL, from four micro-batches of the trainer and from the formula over whole streams."""
    section = train_section(lambda_=lambda_, beta=beta, on=on, rows_per_step=4, micro_rows=1,
                            optim={"lr": 1e-3, "max_grad_norm": 1e9})
    bench = set_up(train_inputs, section)
    if bench.policy.reference is not None:
        with torch.no_grad():
            for p in bench.policy.reference.parameters():
                p += 0.02 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    Stepper(bench, section)._gradients(0, False, False)
    got = {n: p.grad for n, p in bench.parameters.items()}
    streams = [s for s in (bench.course.sft, bench.course.replay) if s]
    looked_at = {"assistant": streams[:1], "replay": streams[1:], "both": streams}[on]
    kl_tokens = sum(s.counts(s.step(0)).trained_tokens for s in looked_at)
    loss = torch.zeros(())
    for stream, weight in zip(streams, (1.0, lambda_), strict=False):
        micro = bench.policy.micro(bench.micro(stream, stream.step(0)).batch)
        hidden = hidden_of(bench.policy.model, micro.ids, micro.positions, micro.mask)[0, micro.places]
        ours = bench.policy.model.lm_head(hidden).log_softmax(-1)
        loss = loss + weight * torch.nn.functional.nll_loss(ours, micro.targets)
        if beta > 0 and stream in looked_at:
            base = bench.policy.base(micro)
            theirs = base.head(base.hidden).log_softmax(-1).detach()
            loss = loss + beta * (ours.exp() * (ours - theirs)).sum() / kl_tokens
    for (name, p), want in zip(bench.parameters.items(),
                               torch.autograd.grad(loss, list(bench.parameters.values())), strict=True):
        torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-10)
        assert p.dtype == torch.float64


def test_the_rate_and_the_clipping_told_are_those_used(train_inputs: TrainInputs, train_section: Section,
                                                       tmp_path: Path) -> None:
    def run(name: str, **optim: Any) -> list[float]:
        train(train_inputs, train_section(optim={"lr": 3e-3, **optim}, epochs=3), tmp_path / name)
        return _course(tmp_path / name, "sft")

    constant, linear = run("constant", schedule="constant"), run("linear", schedule="linear")
    assert constant[:1] == linear[:1]
    assert constant[-1] != linear[-1]
    rates = _course(tmp_path / "linear", "lr")
    assert rates == sorted(rates, reverse=True)
    # Adam divides by the gradient's size: a clip shows only where it is smaller than Adam's ε = 1e-8.
    clipped = run("clipped", max_grad_norm=1e-13, schedule="constant")
    free = run("free", max_grad_norm=1e6, schedule="constant")
    assert abs(clipped[-1] - free[-1]) > 0.1
    assert min(_course(tmp_path / "clipped", "grad_norm")) > 0.1, "the norm before clipping is told"


def test_beta_holds_the_model_at_its_base(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Minimising + β · KL makes the drift small; with the sign turned it would grow past the free run's."""
    drift = {}
    for beta in (1e-9, 3.0):
        train(train_inputs, train_section(beta=beta, on="replay", epochs=6), tmp_path / str(beta))
        drift[beta] = _course(tmp_path / str(beta), "kl")
    assert drift[1e-9][0] == pytest.approx(0.0, abs=1e-6)
    assert drift[1e-9][-1] > 0.05
    assert drift[3.0][-1] < 0.3 * drift[1e-9][-1]
    assert all(value > -1e-6 for values in drift.values() for value in values)


def test_lambda_teaches_the_replay_text(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    last = {}
    for lambda_ in (0.0, 1.0):
        train(train_inputs, train_section(lambda_=lambda_, beta=1e-9, epochs=6), tmp_path / str(lambda_))
        last[lambda_] = _course(tmp_path / str(lambda_), "replay")
    assert last[0.0][0] == pytest.approx(last[1.0][0])
    assert last[1.0][-1] < last[0.0][-1] - 0.1


def test_the_loss_told_is_the_sum_of_its_terms(train_inputs: TrainInputs, train_section: Section,
                                               tmp_path: Path) -> None:
    report = train(train_inputs, train_section(lambda_=0.3, beta=2.0), tmp_path)
    for e in _events(tmp_path, "step"):
        assert e["loss"] == pytest.approx(e["sft"] + 0.3 * e["replay"] + 2.0 * e["kl"])
    assert report.replay_tokens == _events(tmp_path, "end")[0]["replay_tokens"] > 0


def test_a_few_rows_are_learned_by_heart(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                         write_prepared: Callable[..., Path]) -> None:
    inputs = replace(train_inputs, prepared=write_prepared(tmp_path / "data", train=3))
    report = train(inputs, train_section(
        epochs=120, optim={"lr": 1e-2, "schedule": "constant"}), tmp_path / "run")
    assert report.final.sft < 0.02


def test_bfloat16_and_recomputed_activations_are_used(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    low = replace(train_inputs, model=train_inputs.model.model_copy(update={"precision": "bfloat16"}))
    train(train_inputs, train_section(), tmp_path / "a")
    train(low, train_section(), tmp_path / "b")
    train(train_inputs, train_section(gradient_checkpointing=True), tmp_path / "c")
    exact, rough, again = (_course(tmp_path / n, "loss") for n in "abc")
    assert exact != rough
    assert exact == pytest.approx(rough, rel=0.03)
    assert exact == pytest.approx(again, rel=1e-5)
    assert set_up(train_inputs, train_section(gradient_checkpointing=True)).policy.model.is_gradient_checkpointing


def test_validation_is_the_mean_over_held_out_tokens(train_inputs: TrainInputs, train_section: Section,
                                                     tmp_path: Path, make_llama: Callable[..., Any]) -> None:
    base = Path(shutil.copytree(train_inputs.model.path, tmp_path / "base"))
    make_llama(attention_dropout=0.5).save_pretrained(base)  # nothing may be dropped in validation
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(base)}))
    report = train(inputs, train_section(validate_every_steps=2, epochs=2), tmp_path / "run")
    assert [step for step, _ in report.validation] == [*range(0, report.steps, 2), report.steps]
    model, total, tokens = make_llama().eval(), 0.0, 0
    for e in load_examples(train_inputs.prepared / "validation.parquet"):
        places = chosen(torch.tensor(e.targets))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([e.input_ids])).logits[0, places]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(e.targets)[places], reduction="sum"))
        tokens += len(places)
    assert report.validation[0][1] == pytest.approx(total / tokens, rel=1e-5)


# What must not go unnoticed


def test_a_step_without_a_trained_token_is_an_error(train_inputs: TrainInputs, train_section: Section,
                                                    tmp_path: Path) -> None:
    inputs = _with_targets(train_inputs, tmp_path / "data", lambda targets: [IGNORE] * len(targets))
    with pytest.raises(TrainingError, match=r"step 1 has no trained token.*train\.jsonl:\d+"):
        train(inputs, train_section(), tmp_path / "run")


def _with_targets(inputs: TrainInputs, folder: Path, change: Callable[[list[int]], list[int]]) -> TrainInputs:
    folder.mkdir()
    for file in inputs.prepared.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    changed = [{**row, "targets": change(row["targets"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(changed), folder / "train.parquet")
    return replace(inputs, prepared=folder)


def test_a_diverged_run_stops_and_names_its_rows(train_inputs: TrainInputs, train_section: Section,
                                                 tmp_path: Path) -> None:
    section = train_section(optim={"lr": 1e20, "schedule": "constant", "warmup_share": 0.0}, epochs=4)
    with pytest.raises(TrainingError, match=r"step \d+: loss .*(nan|inf).* rows train\.jsonl:\d+, .*lr"):
        train(train_inputs, section, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_lost_token_is_found_by_the_counters(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    collate = workbench.collate

    def lossy(*args: Any) -> Batch:
        batch = collate(*args)
        batch.targets[0, int(chosen(batch.targets[0])[0])] = IGNORE
        return batch

    monkeypatch.setattr(workbench, "collate", lossy)
    with pytest.raises(TrainingError, match="counters do not meet the plan"):
        train(train_inputs, train_section(), tmp_path)
    assert not (tmp_path / "model").exists()


def test_files_that_are_not_what_the_ledger_says_are_refused(train_inputs: TrainInputs, train_section: Section,
                                                            tmp_path: Path) -> None:
    inputs = _with_targets(train_inputs, tmp_path / "data", lambda targets: targets)
    tokens = sum(len(e.input_ids) for e in load_examples(inputs.prepared / "train.parquet"))
    (inputs.prepared / "ledger.json").write_text(json.dumps({"train_tokens": tokens}))
    set_up(inputs, train_section())
    (inputs.prepared / "ledger.json").write_text(json.dumps({"train_tokens": tokens + 1}))
    with pytest.raises(DataError, match=rf"train_tokens {tokens} \(ledger: {tokens + 1}\)"):
        set_up(inputs, train_section())


def test_data_of_another_tokenizer_is_refused(train_inputs: TrainInputs, train_section: Section,
                                              tmp_path: Path) -> None:
    folder = _with_targets(train_inputs, tmp_path / "data", lambda targets: targets).prepared
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    rows[3]["input_ids"][2] = 64
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    with pytest.raises(ModelError, match=r"train\.jsonl:4 holds token id 64.*64 rows"):
        train(replace(train_inputs, prepared=folder), train_section(), tmp_path / "run")


def test_missing_data_is_named(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    folder = _with_targets(train_inputs, tmp_path / "data", lambda targets: targets).prepared
    (folder / "replay.parquet").unlink()
    inputs = replace(train_inputs, prepared=folder)
    with pytest.raises(DataError, match=r"replay\.parquet is missing"):
        train(inputs, train_section(lambda_=1.0), tmp_path / "run")
    (folder / "template.json").unlink()
    with pytest.raises(DataError, match=r"template\.json is missing"):
        train(inputs, train_section(), tmp_path / "run")
    with pytest.raises(ValidationError, match=r"replay\.sources"):
        TrainSection.model_validate({"optim": {"lr": 1}, "kl": {"beta": 1.0}})


# The course of a run


def _examples(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [Example([5] * n, [5] * (n - 1) + [IGNORE], Origin("s", "f", n))
            for n in (rng.randint(2, 20) for _ in range(count))]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("epochs", [0.3, 1.0, 2.5])
def test_a_course_brings_every_example_once_per_epoch(train_section: Section, pack: bool, epochs: float) -> None:
    examples = _examples(50)
    packing = Packing(32, pack, 3)
    course = lay_out(examples, [], train_section(epochs=epochs, rows_per_step=4), packing)
    seen = Counter(i for step in range(course.steps) for row in course.sft.step(step) for i in row)
    rows = len(packing.rows(examples, "sft", 0))
    whole = int(epochs)
    assert all(whole <= seen[i] <= whole + (epochs > whole) for i in range(50))
    assert sum(seen.values()) == course.sft.totals().tokens - sum(
        (len(examples[i].input_ids) - 1) * k for i, k in seen.items())
    assert len(course.sft.rows) == pytest.approx(epochs * rows, abs=2)
    assert all(sum(len(examples[i].input_ids) for i in row) <= 32 for row in course.sft.rows)
    assert course == lay_out(examples, [], train_section(epochs=epochs, rows_per_step=4), packing)


def test_another_epoch_and_another_seed_bring_another_order(train_section: Section) -> None:
    examples = _examples(50)
    section = train_section(epochs=2)
    rows = lay_out(examples, [], section, Packing(32, True, 3)).sft.rows
    half = len(rows) // 2
    assert rows[:half] != rows[half:]
    assert rows != lay_out(examples, [], section, Packing(32, True, 4)).sft.rows


@pytest.mark.parametrize(("tokens_per_step", "rows"), [(1, 1), (32, 1), (33, 2), (96, 3)])
def test_replay_gives_each_step_whole_rows_and_starts_over(train_section: Section, tokens_per_step: int,
                                                           rows: int) -> None:
    replay = _examples(3, seed=1)
    section = train_section(lambda_=1.0).model_copy(
        update={"replay": train_section(lambda_=1.0).replay.model_copy(update={"tokens_per_step": tokens_per_step})})
    course = lay_out(_examples(50), replay, section, Packing(32, True, 3))
    assert course.replay is not None
    assert all(len(course.replay.step(s)) == rows for s in range(course.steps))
    seen = Counter(i for row in course.replay.rows for i in row)
    assert max(seen.values()) - min(seen.values()) <= 1
