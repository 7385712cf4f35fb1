"""What a person who looks at Prefect, or at a worker's log, sees of a run."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from prefect.client.orchestration import SyncPrefectClient

from flows.experiment import sft_experiment
from infra import artifacts
from infra.study_contract import TrialRow
from infra.sweep_view import trials_page
from tasks import afar

Start = Callable[..., subprocess.Popen[str]]
Sft = Callable[..., subprocess.CompletedProcess[str]]
ENGINE = ("-m", "prefect.flow_engine")
"""What a worker starts."""


def logged(api: str, run_id: str) -> list[str]:
    asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
    return [line["message"] for line in requests.post(f"{api}/logs/filter", json=asked, timeout=10).json()]


def named(api: str, name: str) -> Any:
    asked = {"flow_runs": {"name": {"any_": [name]}}}
    (run,) = requests.post(f"{api}/flow_runs/filter", json=asked, timeout=10).json()
    return run


def test_flow_run_has_the_name_of_its_experiment_and_holds_our_log(
    sft: Sft, config: Path, home: Path, prefect_api: str
) -> None:
    done = sft("run", config, "--set", "eval.limit=3", "--set", "name=seen")
    assert done.returncode == 0, done.stderr[-2000:]
    run = named(prefect_api, "seen · full · eval.limit=3")
    lines = logged(prefect_api, run["id"])
    for said in ("evaluating base: tiny_mmlu, tiny_refusal", r"base on tiny_mmlu: 100\.0 \(12 items, [\d.]+ s\)",
                 r"trained for 10 steps: loss .*; 1,611 tokens in [\d.]+ s, saved in [\d.]+ s", r"train: made in .* s",
                 r"tiny_mmlu: 100\.0 → .*, tax .* to .*: ", "gate: .*", f"run seen-.*: {home}/runs/seen-.*"):
        assert [line for line in lines if re.match(said, line)], f"{said} is missing: {lines}"
    assert done.stderr.count("evaluating base: ") == 1
    for noise in ("ook 'told'", "Finished in state"):
        assert noise not in done.stderr + "".join(lines)
    asked = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks = {one["name"] for one in requests.post(f"{prefect_api}/task_runs/filter", json=asked, timeout=10).json()}
    found = {one["key"]: one for one in requests.post(f"{prefect_api}/artifacts/filter", timeout=10, json={
        "artifacts": {"flow_run_id": {"any_": [run["id"]]}}}).json()}
    assert set(found) == {"verdict-seen", "suites-seen", "data-seen", "ledger-seen"}, "no links without pages"
    assert json.loads(found["data-seen"]["data"])[0] == {
        "source": "tiny:sft", "step": "read", "in": "120", "changed": "0", "left out": "0", "out": "120", "why": ""}
    verdict, ledger = found["verdict-seen"]["data"], json.loads(found["ledger-seen"]["data"])
    assert verdict.startswith("**Gate: undecided.** The tax on tiny\\_mmlu is not proved")
    assert "/report.html`" in verdict
    assert json.loads(found["suites-seen"]["data"])[0]["suite"] == "tiny\\_mmlu", "a cell is read as Markdown"
    assert [(row["source"], row["read"], row["trained"]) for row in ledger] == [
        ("tiny:sft", 120, 1677), ("tiny:replay", 60, 2998)]
    name = verdict.partition("`sft show ")[2].partition("`")[0]
    told = sft("show", name).stdout
    for said in (f"{name}: done", "Gate: undecided. The tax on tiny_mmlu is not proved", "tax +0.0",
                 "trained    10 steps, 1,611 of 4,753 tokens trained", "evaluate tuned", "source tiny:sft",
                 "report.html"):
        assert said in told, told
    assert "Not to be had" not in told
    assert json.loads(sft("show", name, "--json").stdout)["state"] == "done"
    assert tasks == {"prepare the data of seen", "curate the data of seen", "evaluate base", "A/A floor of base",
                     "train: full, 1 epochs", "evaluate tuned", "verdict", "record"}


def test_worker_says_in_one_line_that_a_run_was_stopped(
    start: Start, config: Path, home: Path, prefect_api: str
) -> None:
    with SyncPrefectClient(prefect_api) as client:
        given = {"config": str(config), "overrides": ["train.epochs=200"]}
        run_id = client.create_flow_run(sft_experiment, parameters=given).id
    process = start("flows/experiment.py:sft_experiment", program=ENGINE, PREFECT__FLOW_RUN_ID=str(run_id))
    deadline = time.monotonic() + 120
    while not any('"step"' in file.read_text() for file in home.glob("stages/train/*/out/events.jsonl")):
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert said.count("training stopped by SIGTERM") == 1, said
    assert "Traceback" not in said, said
    assert "evaluating base: " in said
    assert any("training stopped by SIGTERM" in line for line in logged(prefect_api, str(run_id)))


def test_processes_of_their_own_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training by several processes wrote its lines to the terminal alone."""
    events, said, followed = tmp_path / "events.jsonl", list[str](), list[Path]()
    monkeypatch.setattr(afar, "EVERY_S", 0.0)
    monkeypatch.setattr(afar, "only_to_prefect", said.append)
    follower = afar.Afar(followed.append)
    start = json.dumps({"event": "start", "steps": 900}) + "\n"
    step = {"event": "step", "loss": 0.5, "sft": 0.4, "replay": None, "kl": 0.1, "tokens_per_s": 1234.5}
    events.write_text(start)
    follower(events)
    assert said == []
    events.write_text(start + "".join(json.dumps({**step, "step": n}) + "\n" for n in range(1, 500)) + '{"event": "st')
    follower(events)
    assert said == ["training: 499 of 900 steps, loss 0.5, sft 0.4, kl 0.1, tokens_per_s 1234"]
    events.write_text("")  # a run that goes on has cut it off
    follower(events)
    assert (len(said), len(followed)) == (1, 3)


def test_names_and_reasons_are_text_on_prefects_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "<img src=x onerror=alert(1)> [click](javascript:alert(1)) | `x` \x1b[2J\u202e http://u:secret@host/"
    assert artifacts.key("verdict", "small") == "verdict-small"
    assert re.fullmatch("verdict-my-run-[0-9a-f]{6}", artifacts.key("verdict", "My Run"))
    assert artifacts.key("verdict", "精度") != artifacts.key("verdict", "语言")
    monkeypatch.setattr("infra.sweep_view._flow_runs", lambda study, kind: [])
    row = TrialRow(3, "FAIL", {"a|b": hostile}, None, {"why": hostile})
    made = trials_page("two", [row], "sqlite:///x", "says", {"alignment": "alignment score (points)", "tax": "tax"})
    table = artifacts.table("suites", "small", [{"suite": hostile}], hostile).args
    for text in (made, *map(str, table)):
        assert "<img" not in text
        assert "[click]" not in text
    for text in (made, *map(str, table)):
        assert not {"\x1b", "\u202e"} & set(text)
    assert "secret" not in str(table)
    assert len(re.findall(r"(?<!\\)\|", made.splitlines()[-1])) == 6
