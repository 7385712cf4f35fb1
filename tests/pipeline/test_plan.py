"""`sft plan` as a user calls it: what it foresees is what the run does, and it writes nothing but the data's stage."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sft_core.config.file import load, override
from sft_core.config.followups import as_searched
from tasks.pace import SPREAD
from tasks.plan import FORECAST, plan_of
from tasks.prepare import prepare
from tasks.stages import Workspace
from tasks.sweep_plan import plan_sweep

Sft = Callable[..., subprocess.CompletedProcess[str]]


def test_a_plan_is_what_the_run_does_and_learns_from_it(sft: Sft, config: Path, home: Path) -> None:
    done = sft("plan", config, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert {place.name for place in (home / "stages").iterdir()} == {
        "read", "normalise", "facts", "recall", "curate", "prepare"}
    assert not (home / "mlflow.db").exists()
    assert plan["stages"] == {"prepare": plan["stages"]["prepare"], "train": "to do", "base": "0 of 2 found",
                              "tuned": "0 of 2 found"}
    assert plan["stages"]["prepare"]["reused"] is False
    assert plan["seconds"]["training"]["how"].startswith("guessed from")
    assert [(one["suite"], one["items"], one["margin"]) for one in plan["suites"]] == [
        ("tiny_mmlu", 24, 1.0), ("tiny_refusal", 12, None)]
    assert any("optimiser steps of" in said and "train.rows_per_step" in said for said in plan["advice"])
    assert any("tiny_mmlu: 24 items cannot prove a tax of at most 1" in said for said in plan["advice"])

    ran = sft("run", config)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = " ".join(ran.stderr.split())
    assert f"plan: {plan['steps']} steps of {plan['step']['tokens']:,.0f} tokens" in said
    assert (forecast := FORECAST.search(said))
    assert forecast[0].startswith("at least ")
    (run,) = (home / "runs").iterdir()
    training = json.loads((run / "training.json").read_text())
    assert (training["steps"], training["rows"]) == (plan["steps"], plan["epoch"]["rows"])
    assert training["trained_tokens"] == plan["epoch"]["trained_tokens"]

    again = sft("plan", config)
    assert again.returncode == 0, again.stderr
    shown = " ".join(again.stdout.replace("│", " ").split())
    assert "prepare found; it took" in shown
    assert "train found" in shown
    assert "evaluation 2 of 2 suites found" in shown
    assert "training is there already, evaluation takes no time" in shown
    longer = json.loads(sft("plan", config, "--set", "train.epochs=2", "--json").stdout)
    assert longer["seconds"]["training"]["how"] == "measured in 1 earlier run of this model and method here"
    expected = 2 * (training["tokens"] + training["replay_tokens"]) / training["tokens_per_s"] + training["saving_s"]
    assert longer["seconds"]["training"]["low"] == pytest.approx(expected / SPREAD, rel=0.05)
    assert training["saving_s"] > 0
    assert longer["stages"]["base"] == "2 of 2 found"
    assert longer["suites"][0]["base"] is not None


def test_a_sweep_takes_its_trials_on_average_over_the_space_and_its_base_once(sweep: Path, home: Path) -> None:
    data = yaml.safe_load(sweep.read_text())
    data["search"]["space"] = {"train.epochs": {"low": 0.5, "high": 3.0}}
    sweep.write_text(yaml.safe_dump(data))
    config, place = load(sweep).config, Workspace(home, None)
    assert config.search
    prepared = prepare.fn(config, place)
    made = plan_sweep(config, config.search, prepared, place, (5, 2))
    short, long = (plan_of(override(config, {"train.epochs": epochs}), prepared, place) for epochs in (0.5, 3.0))
    floors = [(one.time.high, one.items.items, 3 * min(config.eval.floor_items, one.items.items))
              for one in short.suites]  # a run asks two models and the floor of the base
    asked = sum(whole * items / (2 * items + floor) for whole, items, floor in floors)
    base = sum(whole * (items + floor) / (2 * items + floor) for whole, items, floor in floors)
    assert min(floor for _, _, floor in floors) > 0
    assert made.common.high == pytest.approx(base, rel=0.02)
    assert "its A/A floor (eval.floor_items) included" in short.lines()[1]
    assert made.trial.high == pytest.approx((short.training.high + long.training.high) / 2 + asked, rel=0.02)
    assert made.dearest.high == pytest.approx(long.training.high + asked, rel=0.02)
    assert made.whole.high == pytest.approx(made.common.high + 3 * made.trial.high)
    assert made.lines()[0].startswith("sweep two: 5 trials, 2 at a time: ")
    assert made.lines()[0].count("guessed from") == 1

    data["search"] |= {"space": {"train.replay.lambda": {"low": 0.0, "high": 1.0}}, "confirm": 0.5}
    sweep.write_text(yaml.safe_dump(data))
    config = as_searched(load(sweep, ["train.replay.lambda=0"]).config)
    assert config.search
    made = plan_sweep(config, config.search, prepare.fn(config, place), place, (5, 2))
    assert made.dearest.high > made.trial.high  # with replay, which the configuration itself does not prepare
    assert made.confirmed.high == pytest.approx(3 * asked, rel=0.1)  # eval.limit is one of each part
    assert ", the confirmation " in made.lines()[1]


def test_a_sample_is_enough_for_a_plan(sft: Sft, config: Path) -> None:
    whole = json.loads(sft("plan", config, "--json").stdout)
    quick = json.loads(sft("plan", config, "--json", "--rows", "60").stdout)
    assert quick["sampled"] == 2.0
    assert abs(quick["steps"] - whole["steps"]) <= 0.2 * whole["steps"] + 1


def test_what_the_run_would_end_with_ends_the_plan(sft: Sft, config: Path) -> None:
    assert sft("plan", config, "--set", "train.epochz=2").returncode == 2
    missing = sft("plan", config, "--set", "data.sources=[{path: nosuch.json}]")
    assert missing.returncode == 2
    assert "nosuch.json" in missing.stderr
