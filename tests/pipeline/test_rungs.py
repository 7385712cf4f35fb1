"""Looks at trials under way: continued, compared at the same share, ended where they are proved hopeless."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eval_suites.results import ItemResult, SuiteResult, write_results
from infra.contract import Tracker
from infra.study import open_study
from infra.study_contract import Trial
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.errors import ConfigError, TrackingError
from sft_core.stage import write_json
from tasks.listing import listed_runs
from tasks.rungs import Climber, Rung, climb, rungs_of
from tasks.stages import Workspace
from tasks.trial import Order, Place, TrialOutcome, plan_of

KINDS = {"tiny_refusal": "alignment", "tiny_mmlu": "capability"}


def result(suite: str, right: int) -> SuiteResult:
    items = tuple(ItemResult(suite=suite, task="t", item_id=f"{suite}/{n}", cluster=str(n), score=float(n < right),
                             metrics={}, prompt="", answer="", target="", why="", asked=f"{suite}{n}")
                  for n in range(1000))
    return SuiteResult(suite, KINDS[suite], {}, items, 0.0)  # type: ignore[arg-type]


class Looked:
    """What a look finds of a trial, by its number: how many of 1,000 are right in each suite, and the losses."""

    def __init__(self, runs: Path, found: dict[int, tuple[int, int, float]]) -> None:
        self.runs, self.found = runs, found

    def __call__(self, order: Order, rung: Rung) -> int:
        number = order.known.number
        refusal, mmlu, loss = self.found[number]
        run = self.runs / f"r{number}"
        write_json(run / "run.json", {"name": run.name})
        for folder, right in (("rungs/base", (100, 900)), (rung.folder, (refusal, mmlu))):
            for suite, many in zip(KINDS, right, strict=True):
                write_results(run / folder, result(suite, many))
        values = {"alignment": refusal / 10, "tax": (900 - mmlu) / 10}
        order.answer.write_text(json.dumps({
            "run": run.name, "mlflow_run_id": f"{number:032x}", "paused": True, "values": values,
            "losses": [2.0, loss]}))
        return 0


@pytest.fixture
def rungs(sweep: Path) -> Path:
    data = yaml.safe_load(sweep.read_text())
    data["search"] |= {"rungs": {"train": [0.3, 0.6], "items": [0.5, 1.0], "min_trials": 2}, "trials": 7,
                       "constraints": ["tax.tiny_mmlu <= 20", "alignment >= 99"]}
    sweep.write_text(yaml.safe_dump(data))
    return sweep


def climber(config: Path, home: Path, found: dict[int, tuple[int, int, float]]) -> tuple[ExperimentConfig, Climber]:
    loaded = load(config)
    assert loaded.config.search
    study = open_study(plan_of(loaded.config, loaded.config.search), home)
    study.begin(loaded.config.search.trials, loaded.text)
    study.join()
    place = Place(home / "sweeps" / "two", "", {})
    place.folder.mkdir(parents=True)

    def nowhere() -> Tracker:
        (home / "asked").touch()
        raise TrackingError("no run of this id")

    return loaded.config, Climber(study, place, Workspace(home, None), nowhere, Looked(home / "runs", found))


def test_a_trial_is_ended_by_what_is_proved_of_it_at_the_same_share(rungs: Path, home: Path) -> None:
    config, by = climber(rungs, home, {0: (100, 100, 1.0), 1: (600, 890, 1.0), 2: (200, 890, 1.0), 3: (700, 880, 1.0),
                                       4: (999, 600, 1.0), 5: (600, 890, 3.1)})
    said: list[TrialOutcome | None] = []
    for _ in range(6):
        trial = by.study.ask()
        assert trial
        said.append(found := climb(trial, config, by))
        by.study.tell(trial.number, None, {"ended": found.ended} if found else {})
    ended = [one.ended if one else None for one in said]
    assert ended == [None, None, "at 30 %: proved dominated by trial 1", None,
                     "at 30 %: proved beyond tax.tiny_mmlu <= 20",
                     "at 30 %: its loss on the held-out rows is 3.10 nats per token, and that of the base 2.00"]
    rows = by.study.trials()
    first, second = (one.key for one in rungs_of(config.search))  # type: ignore[arg-type]
    assert [{first, second} & set(row.notes) for row in rows] == [{first, second}, {first, second}, {first},
                                                                 {first, second}, {first}, {first}]
    assert [one.name for one in listed_runs(by.workspace) if one.state == "ended early"] == ["r5", "r4", "r2"]
    assert json.loads(rows[2].notes[first])["values"] == {"alignment": 20.0, "tax": 1.0}


def test_what_cannot_be_compared_and_the_own_point_go_on(rungs: Path, home: Path) -> None:
    """As of a rival on another machine whose results no tracker has."""
    found = {number: (200, 890, 1.0) for number in range(5)}
    config, by = climber(rungs, home, {**found, 1: (600, 890, 1.0)})
    trials = [by.study.ask() for _ in range(4)]
    for trial in trials[:2]:
        assert trial
        assert climb(trial, config, by) is None
    (home / "runs" / "r1").rename(home / "elsewhere")
    assert trials[2]
    assert climb(trials[2], config, by) is None
    assert (home / "asked").exists()
    (home / "elsewhere").rename(home / "runs" / "r1")
    assert trials[3]
    own = by._replace(study=by.study)
    own.study.plan = replace(by.study.plan, points=(dict(trials[3].params),))
    assert climb(trials[3], config, own) is None
    own.study.plan = replace(by.study.plan, points=({},))
    assert climb(trials[3], config, own)
    assert climb(Trial(1, trials[3].params, 1), config, by) is None, "among the first trials"


@pytest.mark.parametrize(("setting", "says"), [
    ("search.rungs.items=[0.5]", "2 looks, search.rungs.items 1; give one share"),
    ("search.rungs.train=[0.5, 0.5]", "must rise from look to look"),
    ("train.engine=trl", r"search\.rungs pauses training.*use engine: native")])
def test_looks_that_cannot_be_are_refused(setting: str, says: str, rungs: Path) -> None:
    more = ["train.replay={lambda: 0}"] if "trl" in setting else []
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        load(rungs, [setting, *more])
