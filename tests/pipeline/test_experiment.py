"""The whole way on the tiny world: real Prefect, real MLflow on SQLite, real lm-eval, real training."""

import hashlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

Sft = Callable[..., subprocess.CompletedProcess[str]]


def done_marks(home: Path) -> dict[str, list[str]]:
    """Stage → fingerprints that are finished."""
    stages = home / "stages"
    return {stage.name: sorted(p.parent.name for p in stage.glob("*/done.json")) for stage in sorted(stages.iterdir())}


def weights(home: Path) -> str:
    """Hash of the only trained model in a workspace."""
    (file,) = home.glob("stages/train/*/out/model/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Wait until a condition holds while the process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_whole_way_is_recorded_and_not_redone(sft: Sft, config: Path, home: Path) -> None:
    done = sft("run", config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Verdict: tuned against base" in done.stdout
    assert "A/A floor" in done.stdout
    said = done.stdout + done.stderr
    foreseen = re.search(r"tiny_refusal: 12 items( in \d+ clusters)? find a win of ", said)
    assert foreseen
    assert foreseen.start() < said.index("evaluating tuned")
    assert "Without items found in the training data" not in done.stdout, "none was found, so it would say it all again"
    assert "Gate:" in done.stdout

    (run_file,) = home.glob("runs/*/run.json")
    run = json.loads(run_file.read_text())
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    tracked = client.get_run(run["mlflow_run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["train.optim.lr"] == "0.001"
    assert tracked.data.params["train.replay.lambda"] == "0.5"
    assert tracked.data.params["derived.steps"] == str(
        json.loads((run_file.parent / "training.json").read_text())["steps"])
    assert tracked.data.params["derived.precision"] == "float32"
    steps = client.get_metric_history(run["mlflow_run_id"], "train/loss")
    assert [m.step for m in steps] == list(range(1, len(steps) + 1))
    assert len(steps) > 3
    training = json.loads((run_file.parent / "training.json").read_text())
    stored = training["stored"]
    measured = {name: tracked.data.metrics[f"validation/saved.{name}"] for name in ("base", "trained", "loss")}
    assert measured == {name: stored[name] for name in measured}
    assert stored["trained"] == training["validation"][-1][1]
    assert f"({stored['form']}; validation loss {stored['loss']:.4f}, as trained " in done.stdout
    artifacts = {entry.path for entry in client.list_artifacts(run["mlflow_run_id"])}
    assert {"config.yaml", "verdict.json", "report.html", "tax.png", "ledger.json", "evaluation", "model",
            "data.html", "data"} <= artifacts
    assert {name.partition("/")[0] for name in tracked.data.metrics} == {
        "safety", "score", "system", "tax", "train", "validation", "win"}
    assert json.loads((run_file.parent / "verdict.json").read_text())["suites"]
    tags = tracked.data.tags
    assert tags["mlflow.note.content"].startswith(f"**Gate: {tags['sft.gate']}.** ")
    assert re.search(r"\n\| tiny\\_refusal \| .* \|\n", tags["mlflow.note.content"])
    page = f"#/experiments/{tracked.info.experiment_id}/runs/{tracked.info.run_id}/artifacts"
    links = [f"[{file}]({page}/{file}?workflowType=machine_learning)"
             for file in ("report.html", "data.html", "config.yaml")]
    assert " · ".join(links) in tags["mlflow.note.content"]
    assert (tags["mlflow.source.name"], tags["sft.method"], tags["sft.lambda"]) == ("sft run", "full", "0.5")
    used = {one.dataset.name: (one.tags[0].value, json.loads(one.dataset.profile))
            for one in tracked.inputs.dataset_inputs}
    assert {name: use for name, (use, _) in used.items()} == {
        "curated data": "training", "prepared data": "training", "tiny:sft": "training", "tiny:replay": "replay",
        "tiny_mmlu": "evaluation", "tiny_refusal": "evaluation"}
    assert used["tiny:sft"][1].keys() == {"files"}
    assert used["prepared data"][1]["sources"]["tiny:sft"]["kept"] > 0
    assert used["tiny_refusal"][1] == {"items": 12}
    manifest = json.loads((run_file.parent / "data" / "manifest.json").read_text())
    digests = {one.dataset.name: one.dataset.digest for one in tracked.inputs.dataset_inputs}
    assert digests["curated data"] == manifest["fingerprint"]
    assert manifest["fingerprint"] in (run_file.parent / "data.html").read_text()
    table = json.loads(Path(client.download_artifacts(tracked.info.run_id, "items/tiny_refusal.json")).read_text())
    assert {"prompt", "ids", "base_answer", "base_score", "base_why", "tuned_answer"} <= set(table["columns"])
    assert len(table["data"]) == 12

    verdict = json.loads((run_file.parent / "verdict.json").read_text())
    assert {row["suite"] for row in verdict["suites"]} == {"tiny_mmlu", "tiny_refusal"}
    assert all(row["floor"] is not None for row in verdict["suites"])
    assert [(check[0], check[1]) for check in verdict["checks"]] == [("parity", True)], verdict["checks"]

    before = done_marks(home)
    assert {stage: len(marks) for stage, marks in before.items()} == {
        "evaluate": 4, "floors": 2, "power": 1, "prepare": 1, "train": 1,
        "read": 1, "normalise": 1, "facts": 4, "recall": 1, "curate": 1, "manifest": 1}
    told = sft("run", config)
    assert told.returncode == 0, told.stderr[-3000:]
    assert "found whole" in told.stderr
    assert "Flow run" not in told.stderr
    assert told.stdout == done.stdout
    (run_file.parent / "settled.json").unlink()
    again = sft("run", config)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout == done.stdout
    assert (run_file.parent / "settled.json").exists()
    assert done_marks(home) == before
    assert len(client.get_run(tracked.info.run_id).inputs.dataset_inputs) == len(used)
    assert len(client.search_runs([tracked.info.experiment_id])) == 1
    assert len(client.get_metric_history(run["mlflow_run_id"], "train/loss")) == len(steps)

    changed = sft("run", config, "--set", "train.optim.lr=5e-4")
    assert changed.returncode == 0, changed.stderr[-3000:]
    after = done_marks(home)
    assert after["prepare"] == before["prepare"]
    assert len(after["train"]) == 2
    assert len(after["evaluate"]) == 6  # the base was not evaluated again

    first, second = sorted(home.glob("runs/*"))
    compared = sft("compare", first.name, second.name)
    assert compared.returncode == 0, compared.stderr[-3000:]
    assert "Tax: capability suites" in compared.stdout
    assert "tiny_mmlu" in compared.stdout
    floor = compared.stdout[compared.stdout.index("A/A floor"):]
    assert f"the base of {first.name}" in floor or f"the base of {second.name}" in floor
    assert "not measured" not in floor


def test_ledger_accounts_for_every_row(sft: Sft, config: Path, home: Path) -> None:
    shown = sft("data", "show", config, "--html", home / "page.html")
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert "trained" in (home / "page.html").read_text()
    (folder,) = home.glob("stages/prepare/*/out")
    ledger = json.loads((folder / "ledger.json").read_text())
    counts = [*ledger["sources"], *ledger["replay"]]
    assert ledger["read"] == 120
    for count in counts:
        assert count["read"] == count["kept"] + sum(count["rejected"].values())
    assert len(pd.read_parquet(folder / "rejected.parquet")) == sum(sum(c["rejected"].values()) for c in counts)
    kept = sum(len(pd.read_parquet(folder / f"{part}.parquet")) for part in ("train", "validation"))
    assert kept == sum(count["kept"] for count in ledger["sources"])


def test_killed_run_continues_and_ends_bit_identical(
    sft: Sft, start: Callable[..., subprocess.Popen[str]], config: Path, home: Path
) -> None:
    often = ("--set", "train.checkpoint_every_s=0.001", "--set", "train.epochs=2")
    process = start("run", config, *often)
    wait_for(lambda: len(list(home.glob("stages/train/*/out/checkpoints/step-*"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(home.glob("stages/train/*/done.json"))

    continued = sft("run", config, *often)
    assert continued.returncode == 0, continued.stderr[-3000:]
    events = [json.loads(line) for file in home.glob("stages/train/*/out/events.jsonl")
              for line in file.read_text().splitlines()]
    assert any(event["event"] == "resume" for event in events)
    resumed = weights(home)

    # Prepared data and base results stay, only training is made again, this time in one go.
    for file in home.glob("stages/train/*/done.json"):
        file.unlink()
    for file in home.glob("stages/train/*/out"):
        file.rename(file.with_name("old"))
    assert sft("run", config, *often).returncode == 0
    assert weights(home) == resumed


def test_sigterm_saves_says_how_to_continue_and_ends_with_1(
    sft: Sft, start: Callable[..., subprocess.Popen[str]], config: Path, home: Path
) -> None:
    process = start("run", config, "--set", "train.epochs=20")
    wait_for(lambda: any('"step"' in f.read_text() for f in home.glob("stages/train/*/out/events.jsonl")), process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said[-2000:]
    assert "state is saved" in said
    assert list(home.glob("stages/train/*/out/checkpoints/step-*"))
    run_id = json.loads(next(home.glob("runs/*/run.json")).read_text())["mlflow_run_id"]
    assert MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db").get_run(run_id).info.status == "KILLED"


def test_gate_that_fails_ends_with_3_when_enforced(sft: Sft, config: Path) -> None:
    demand = ("--set", "gate.at_least={tiny_refusal: 1.0}", "--set", "gate.enforce=true", "--set", "train.epochs=0.1")
    done = sft("run", config, *demand)
    assert done.returncode == 3, done.stderr[-3000:]
    assert "GateFailed" in done.stderr


@pytest.mark.parametrize("method", ["lora"])
def test_adapters_are_trained_merged_and_evaluated(sft: Sft, config: Path, home: Path, method: str) -> None:
    changes = [f"train.method={method}", "train.lora.rank=4", "train.lora.modules_to_save=[embed_tokens]",
               "train.kl.beta=0.1", "train.kl.on=both"]
    done = sft("run", config, *(part for change in changes for part in ("--set", change)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(home.glob("stages/train/*/out/adapter/adapter_model.safetensors"))
    assert weights(home)
