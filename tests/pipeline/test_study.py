"""Studies in a journal file: ask and tell, a worker that is killed, changed settings, continuing, and the picture."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra import pareto
from infra.leases import FileLeases
from infra.plans import Dimension, Plan, Value
from infra.stored import read_earlier
from infra.study import open_study
from infra.study_contract import Aim, Study, Trial
from infra.study_rows import MAX_RETRIES
from sft_core.errors import ConfigError, OrchestrationError
from tasks.front import AXES, dots, texts

ROOT = Path(__file__).resolve().parents[2]
LR, RANK = Dimension(1e-5, 1e-2, log=True), Dimension(choices=(4, 8, 16))
PLAN = Plan("s", {"lr": LR, "rank": RANK}, {"alignment": "maximize", "tax": "minimize"}, "context", "random", 0)


def drive(workspace: Path, plan: Plan = PLAN, trials: int = 99, storage: str | None = None) -> Study:
    study = open_study(plan, workspace, storage)
    study.join()
    study.begin(trials)
    return study


def ask(study: Study) -> Trial:
    trial = study.ask()
    assert trial
    return trial


def run(study: Study, trials: int) -> list[dict[str, float | int | str]]:
    """Ask and tell so often, and return the parameters."""
    asked = []
    for _ in range(trials):
        trial = ask(study)
        study.tell(trial.number, {"alignment": float(trial.number), "tax": 0.0}, {"run": f"r{trial.number}"})
        asked.append(trial.params)
    return asked


def test_directions_front_and_missing_values(tmp_path: Path) -> None:
    study = drive(tmp_path, trials=8)
    told = [{"alignment": 0.5, "tax": 1.0}, {"alignment": 0.9, "tax": 3.0}, {"alignment": 0.4, "tax": 2.0}, None,
            {"alignment": 0.95, "tax": float("nan")}, {"alignment": float("inf"), "tax": 0.0}]
    for values in told:
        study.tell(ask(study).number, values, {"why": "because"})
    rows = study.trials()
    assert [row.state for row in rows] == ["COMPLETE"] * 3 + ["FAIL"] * 3
    assert [row.values for row in rows] == [*told[:3], None, None, None]
    assert [row.notes["why"] for row in rows[4:]] == ["tax is nan, which is no result",
                                                      "alignment is inf, which is no result"]
    assert [row.number for row in study.pareto()] == [0, 1]
    assert rows[3].notes == {"why": "because"}
    assert study.remaining() == 2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_a_trial_beyond_a_limit_is_complete_and_not_on_the_front(tmp_path: Path, sampler: str) -> None:
    limits = ("tax <= 2",)
    study = drive(tmp_path, replace(PLAN, sampler=sampler, constraints=limits))  # type: ignore[arg-type]
    for alignment, tax in ((0.5, 1.0), (0.9, 3.0), (0.4, 2.0)):
        told = {"alignment": alignment, "tax": tax}
        study.tell(ask(study).number, told, excess={"tax <= 2": tax - 2})
    ask(study)
    rows = study.trials()
    assert [row.broken for row in rows] == [(), limits, (), ()]
    assert rows[1].values == {"alignment": 0.9, "tax": 3.0}
    assert [row.number for row in study.pareto()] == [0]
    shown = [row["state"] for row in pareto.table(rows, AXES, {})]
    assert shown == ["complete", "breaks tax <= 2", "complete", "running"]
    study.close()
    with pytest.raises(ConfigError, match=r"constraints"):
        open_study(PLAN, tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_a_trial_that_is_ended_early_is_over_and_no_failure(tmp_path: Path, sampler: str) -> None:
    study = drive(tmp_path, replace(PLAN, sampler=sampler), trials=20)  # type: ignore[arg-type]
    run(study, 2)
    for _ in range(10):  # more than a sampler begins with
        number = ask(study).number
        study.note(number, {"rung 25 %": "{}"})
        assert study.trials()[number].notes == {"rung 25 %": "{}"}
        study.tell(number, None, {"ended": "at 25 %: proved dominated by trial 1"})
    row = study.trials()[-1]
    assert (row.state, row.values, row.notes["rung 25 %"]) == ("PRUNED", None, "{}")
    assert study.remaining() == 8
    study.tell(ask(study).number, None, {"why": "because"})
    assert [row.number for row in study.failed_in_a_row()] == [12]
    assert [row.number for row in study.pareto()] == [1]
    assert [shown["state"] for shown in pareto.table(study.trials(), AXES, {})[1:3]] == [
        "complete", "ended at 25 %: proved dominated by trial 1"]
    kept = ask(study).number
    FileLeases.drop(study._leases, kept)  # type: ignore[attr-defined]
    study.note(kept, {"rung 25 %": "late"})
    assert study.trials()[kept].notes == {}


def test_objectives_are_told_by_name_not_by_position(tmp_path: Path) -> None:
    study = drive(tmp_path)
    study.tell(ask(study).number, {"tax": 7.0, "alignment": 0.1})
    assert study.trials()[0].values == {"alignment": 0.1, "tax": 7.0}


def test_parameters_lie_in_their_ranges_and_keep_their_types(tmp_path: Path) -> None:
    for params in run(drive(tmp_path), 20):
        assert 1e-5 <= float(params["lr"]) <= 1e-2
        assert params["rank"] in (4, 8, 16)
        assert isinstance(params["rank"], int)


def test_same_seed_same_proposals_and_continuing_does_not_repeat_them(tmp_path: Path) -> None:
    whole = run(drive(tmp_path / "a"), 6)
    first = drive(tmp_path / "b")
    begun = run(first, 3)
    first.close()
    assert begun == whole[:3]
    continued = run(drive(tmp_path / "b"), 3)
    assert not [params for params in continued if params in begun]


NESTED = {"method": Dimension(choices=("full", "lora")), "rank": Dimension(choices=(4, 8), when={"method": ("lora",)}),
          "alpha": Dimension(1.0, 2.0, when={"rank": (8,)})}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "gp", "qmc"])
def test_samplers_draw_the_fields_that_count_beside_each_other(tmp_path: Path, sampler: str) -> None:
    outside = {"method": "none", "lr": 7.0}
    plan = replace(PLAN, sampler=sampler, space=NESTED | {"lr": LR}, points=(outside,))  # type: ignore[arg-type]
    study = drive(tmp_path, plan, 25)
    assert run(study, 1) == [outside]
    asked = run(study, 24)
    assert all(LR.holds(params["lr"]) for params in asked)
    assert {tuple(params) for params in asked} == {
        ("method", "lr"), ("method", "rank", "lr"), ("method", "rank", "alpha", "lr")}
    assert all(("rank" in params) == (params["method"] == "lora") for params in asked)
    assert all(("alpha" in params) == (params.get("rank") == 8) for params in asked)
    assert study.remaining() == 0
    assert study.ask() is None


def test_a_grid_is_walked_whole(tmp_path: Path) -> None:
    alpha = Dimension(choices=(True, None), when={"rank": (8,)})
    study = drive(tmp_path, replace(PLAN, sampler="grid", space=NESTED | {"alpha": alpha}))
    asked = [tuple(params.values()) for params in run(study, 4)]
    assert set(asked) == {("full",), ("lora", 4), ("lora", 8, True), ("lora", 8, None)}
    assert study.ask() is None
    assert study.remaining() == 0


def test_points_come_first_and_no_sampler_learns_from_those_outside_the_space(tmp_path: Path) -> None:
    own: list[dict[str, Value]] = [{"lr": 1e-3, "rank": 5}, {"lr": 1e-3, "rank": 8}, {"lr": 1.0}]
    plan = replace(PLAN, points=tuple(own))
    study = drive(tmp_path, plan)
    study.tell(ask(study).number, {"alignment": 9.0, "tax": 0.0}, {"run": "r0"})
    asked = ask(study).params
    killed = ask(study)
    study.close()  # gives both back
    study = drive(tmp_path, plan)
    again = ask(study), ask(study)
    assert [asked, killed.params] == own[1:] == [one.params for one in again]
    study.tell(again[1].number, {"alignment": 1.0, "tax": 1.0}, excess={"tax <= 0.5": 0.5})
    rows = study.trials()
    assert [row.params for row in rows] == own + own[1:]
    assert [row.state for row in rows] == ["COMPLETE", "FAIL", "FAIL", "RUNNING", "COMPLETE"]
    assert rows[0].notes == {"run": "r0", "point": "outside the space"}
    assert rows[4].broken == ("tax <= 0.5",)
    assert [row.number for row in study.pareto()] == [0]
    assert pareto.table(rows, AXES, {})[0]["state"] == "complete, outside the space"
    assert study.remaining() == 97
    study.close()
    with pytest.raises(ConfigError, match="made with other settings"):
        open_study(replace(plan, context="other"), tmp_path)


def test_trials_of_an_earlier_study_are_taken_over_and_count_as_none_of_this_one(tmp_path: Path) -> None:
    earlier = drive(tmp_path, replace(PLAN, name="e"))
    run(earlier, 2)
    earlier.tell(ask(earlier).number, None)
    rows = earlier.trials()[:2]
    rows[1] = rows[1]._replace(params={"lr": 5.0, "rank": 4}, excess={"tax <= 0": 1.0})
    study = open_study(replace(PLAN, points=(rows[0].params,)), tmp_path)
    assert [study.take_over("e", rows), study.take_over("e", rows)] == [2, 0]
    study.begin(1, versions={"torch": "2"})
    study.begin(1, versions={"torch": "3"})
    assert study.aim().versions == {"torch": "3"}, "taken ones are of this machine's versions, or are not taken"
    assert study.remaining() == 1
    taken = study.trials()
    assert [(row.params, row.values, row.broken) for row in taken] == [
        (rows[0].params, rows[0].values, ()), (rows[1].params, rows[1].values, ("tax <= 0",))]
    assert taken[1].notes == {"run": "r1", "from": "e, trial 1", "point": "outside the space"}
    study.join()
    assert ask(study).number == 2, "the plan's point is there already"
    assert study.ask() is None
    assert read_earlier("s", tmp_path).front == study.pareto() == [taken[0]]


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from infra.plans import Dimension, Plan
from infra.leases import FileLeases
from infra.study import open_study
LR, RANK = Dimension(1e-5, 1e-2, log=True), Dimension(choices=(4, 8, 16))
plan = Plan("s", {{"lr": LR, "rank": RANK}}, {{"alignment": "maximize", "tax": "minimize"}}, "context", "random", 0)
study = open_study(plan, Path({workspace!r}))
study.join()
print(study.ask().params, flush=True)
time.sleep(60)
"""


def killed_worker(workspace: Path) -> str:
    """A worker that asks for a trial and is killed; returns that trial's parameters as printed."""
    code = WORKER.format(tests=str(ROOT), workspace=str(workspace))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    with process.stdout:
        asked = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return asked


def test_trial_of_a_killed_worker_is_failed_and_run_again(tmp_path: Path) -> None:
    study = drive(tmp_path, trials=4)
    asked = killed_worker(tmp_path)
    assert study.remaining() == 4
    again = ask(study)
    assert (again.number, str(again.params), again.root) == (1, asked, 0)
    assert [row.state for row in study.trials()] == ["FAIL", "RUNNING"]
    assert [row["state"] for row in pareto.table(study.trials(), AXES, {})] == ["lost its worker: 1", "running"]
    study.tell(again.number, {"alignment": 1.0, "tax": 0.0})
    assert study.remaining() == 3


def test_trial_that_kills_its_worker_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = drive(tmp_path, trials=1)
    for attempt in range(MAX_RETRIES + 1):
        trial = ask(study)
        assert (trial.number, trial.root) == (attempt, 0)
        monkeypatch.setattr(FileLeases, "live", lambda _: frozenset())  # as of a worker that is gone
    assert study.ask() is None
    assert study.remaining() == 0
    assert [row.state for row in study.trials()] == ["FAIL"] * (MAX_RETRIES + 1)


def test_a_worker_that_leaves_gives_its_trial_back_and_that_is_no_failure_of_the_trial(tmp_path: Path) -> None:
    other = drive(tmp_path, trials=2)
    for _ in range(MAX_RETRIES + 2):
        leaving = drive(tmp_path, trials=2)
        asked = ask(leaving)
        leaving.close()
    assert ask(other).params == asked.params
    assert other.remaining() == 2


def test_lost_workers_change_none_of_the_later_proposals(tmp_path: Path) -> None:
    """A sweep that was killed now and then tried other values than an undisturbed one."""
    wanted = run(drive(tmp_path / "calm", trials=4), 4)
    tried = []
    for _ in wanted:
        for lost in (True, False):
            study = drive(tmp_path / "disturbed", trials=4)
            trial = ask(study)
            if not lost:
                study.tell(trial.number, {"alignment": 1.0, "tax": 0.0})
                tried.append(trial.params)
            study.close()
    assert tried == wanted


def test_readers_do_not_work(tmp_path: Path) -> None:
    study = drive(tmp_path)
    reader = open_study(PLAN, tmp_path)
    run(study, 2)
    assert len(reader.trials()) == 2
    with pytest.raises(OrchestrationError, match="call join"):
        reader.ask()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"space": {"lr": Dimension(1e-5, 1e-1, log=True), "rank": RANK}}, 'space.lr: .*"high": 0.01.*"high": 0.1'),
        ({"space": {"lr": LR}}, "space.rank: .* → absent"),
        ({"objectives": {"alignment": "maximize", "tax": "maximize"}}, "objectives"),
        ({"objectives": {"tax": "minimize", "alignment": "maximize"}}, "objectives"),
        ({"space": {"rank": RANK, "lr": replace(LR, when={"rank": (4,)})}}, r'space.lr: .* → .*"when": ..rank": .4'),
        ({"context": "other"}, "the rest of the configuration"),
        ({"constraints": ("tax <= 2",)}, "constraints"),
    ],
)
def test_changed_settings_are_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    first = drive(tmp_path)
    run(first, 1)
    first.close()
    with pytest.raises(ConfigError, match=f"study s .*{said}.*set search.study to a new name"):
        open_study(replace(PLAN, **changed), tmp_path)  # type: ignore[arg-type]
    open_study(replace(PLAN, sampler="tpe", seed=9), tmp_path)  # these may change


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    space = {"rank": Dimension(1, 64, log=True, whole=True), "pack": Dimension(choices=(True, None))}
    for params in run(drive(tmp_path, replace(PLAN, space=space)), 20):
        assert isinstance(params["rank"], int)
        assert params["pack"] in (True, None)


@pytest.mark.parametrize("url", [None, "sqlite:///{}/study.db"])
def test_a_corrected_space_goes_on_where_no_trial_came_to_an_end(tmp_path: Path, url: str | None) -> None:
    """A space of fractions for a whole number: every trial failed, and the right space was refused as another one."""
    storage = url and url.format(tmp_path)
    wrong = replace(PLAN, space={"rank": Dimension(1.0, 8.0)})
    study = drive(tmp_path, wrong, storage=storage)
    study.tell(ask(study).number, None, {"why": "rank: Input should be a valid integer"})
    ask(study)
    right = replace(PLAN, space={"rank": Dimension(1, 8, whole=True)})
    with pytest.raises(OrchestrationError, match="another process works on the sweep s"):
        open_study(right, tmp_path, storage)
    study.close()
    again = drive(tmp_path, right, 4, storage)
    assert again.remaining() == 4
    assert [isinstance(params["rank"], int) for params in run(again, 4)] == [True] * 4


def test_database_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = drive(tmp_path, storage=url)
    run(study, 2)
    assert len(open_study(PLAN, tmp_path, url).trials()) == 2
    with pytest.raises(OrchestrationError, match="Optuna could not open .*search.storage"):
        open_study(PLAN, tmp_path, f"sqlite:///{tmp_path}/no/such/folder/x.db")
    with pytest.raises(ConfigError, match="search.storage 'study.log' is not a URL"):
        open_study(PLAN, tmp_path, "study.log")


def test_queued_points_are_tried_once_and_waited_for(tmp_path: Path) -> None:
    """Nothing is sampled, though one more is said to come; one that failed is tried again by the next command."""
    study = open_study(replace(PLAN, only_queued=True), tmp_path)
    study.join()
    one, two = {"lr": 0.01, "rank": 4}, {"lr": 0.002, "rank": 8}
    aim = Aim(1, "config", "parent")
    study.queue((), aim)
    assert (study.ask(), study.remaining()) == (None, 1)
    study.queue([one, two], aim)
    study.queue([one, two], aim)
    assert run(study, 1) == [one]
    assert (failed := ask(study)).params == two
    assert (study.ask(), study.remaining()) == (None, 2)
    study.tell(failed.number, None, {"why": "because"})
    study.queue([one, two], aim._replace(trials=0))
    assert run(study, 1) == [two]
    assert (study.ask(), study.remaining()) == (None, 0)
    assert study.aim()._replace(trials=1) == aim
    asked = open_study(replace(PLAN, only_queued=True), tmp_path)
    asked.queue([{"lr": 0.003, "rank": 4}], aim._replace(trials=0))
    lost = ask(study)
    study.close()
    study.join()
    assert ask(study).params == lost.params, "a lost worker's is tried again"


def test_picture_and_table(tmp_path: Path) -> None:
    study = drive(tmp_path)
    for alignment, tax in ((0.5, 1.0), (0.9, 3.0), (0.4, 2.0)):
        study.tell(ask(study).number, {"alignment": alignment, "tax": tax})
    study.tell(ask(study).number, None)
    rows, best = study.trials(), study.pareto()
    table = pareto.table(rows, AXES, texts(None, rows, best))
    assert list(table[0]) == ["trial", "state", *AXES.values(), "lr", "rank"]
    assert [row["trial"] for row in table] == ["0 ★", "1 ★", "2", "3"]
    assert [table[3][column] for column in AXES.values()] == ["—", "—"]
    picture = pareto.write_picture(dots(None, rows, best), AXES, tmp_path)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
