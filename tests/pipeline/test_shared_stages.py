"""Finished stages go from one machine's workspace to another's through a real MLflow server, whole or not at all."""

import logging
import os
import signal
from pathlib import Path

import pytest

from infra.plans import Dimension, Plan
from infra.servers import Service, free_port
from infra.settings import read_settings
from infra.shared_stages import EXPERIMENT, SharedStages, shared_stages
from infra.study import open_study
from infra.tracking import open_tracker
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load
from sft_core.errors import ConfigError
from tasks.common import make_common, together
from tasks.stages import Done, Workspace, once
from tasks.trial import Place

PLAN = Plan("s", {"train.kl.beta": Dimension(0.1, 0.2)}, {"alignment": "maximize", "tax": "minimize"}, "c", "random", 0)


def made(home: Path, url: str, text: str, stamp: str = "abc") -> Done:
    """The stage on the machine with this workspace, which would write this text."""
    def make(out: Path) -> dict[str, object]:
        (out / "deep").mkdir()
        (out / "deep" / "text").write_text(text)
        return {"text": text}

    return once(Workspace(home, None, SharedStages(url, home)).shared("prepare", stamp), make)


def test_a_stage_is_made_once_for_all_machines(mlflow_url: str, tmp_path: Path) -> None:
    first = made(tmp_path / "a", mlflow_url, "from a")
    second = made(tmp_path / "b", mlflow_url, "from b")
    assert (first.reused, second.reused) == (False, True)
    assert (second.result, second.seconds) == ({"text": "from a"}, first.seconds)
    assert (second.folder / "deep" / "text").read_text() == "from a"
    assert {file.name for file in second.folder.parent.iterdir()} == {"done.json", "lock", "out", "used"}
    assert made(tmp_path / "b", mlflow_url, "from b", "another").result == {"text": "from b"}


def test_what_is_damaged_is_made_again_and_kept_beside_it(
    mlflow_services: list[Service], mlflow_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path / "a", mlflow_url, "from a", "cut")
    (run,) = open_tracker(mlflow_url, EXPERIMENT, tmp_path).runs_of("prepare-cut")
    (archive,) = (mlflow_services[-1].log.parent / "artifacts").glob(f"*/{run.run_id}/artifacts/*.tar")
    archive.write_bytes(archive.read_bytes()[:3000])
    assert made(tmp_path / "b", mlflow_url, "from b", "cut").result == {"text": "from b"}
    assert "prepare-cut on the MLflow server is damaged" in caplog.text
    assert made(tmp_path / "c", mlflow_url, "from c", "cut").result == {"text": "from b"}


def test_a_server_that_is_away_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    nobody = SharedStages(f"http://127.0.0.1:{free_port()}", tmp_path)
    for stamp in ("one", "two"):
        stage = Workspace(tmp_path, None, nobody).shared("prepare", stamp)
        assert not once(stage, lambda _: {}).reused
    (told,) = (record.message for record in caplog.records)
    assert told.startswith("stages are not shared with other machines (SFT_SHARE), and what is missing is made")


def kept(url: str, home: Path) -> set[str]:
    """The stages on the server."""
    tracker = open_tracker(url, EXPERIMENT, home)
    runs = {run.name: tracker.artifacts(run.run_id) for run in tracker.recent(99)}
    return {name for name, files in runs.items() if any(file.endswith(".tar") for file in files)}


def test_what_trials_have_in_common_is_made_by_one_of_two_machines(
    mlflow_url: str, postgres_url: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture
) -> None:
    """The first process that makes it is killed."""
    caplog.set_level(logging.INFO)

    def killed_once(config: ExperimentConfig, home: Workspace) -> None:
        if not (mark := tmp_path / "killed").exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        make_common(config, home)

    monkeypatch.setattr("tasks.common.make_common", killed_once)
    chosen = load(config, ["data.sources=[{path: tiny:sft, limit: 77}]", "eval.suites=[tiny_refusal]", "eval.limit=3",
                           "eval.floor_items=2", "train.kl={beta: 0.1, reference: cache}"]).config
    before = kept(mlflow_url, tmp_path)
    homes = [Workspace(tmp_path / name, None, SharedStages(mlflow_url, tmp_path / name)) for name in "ab"]
    for home in homes:
        home.root.mkdir()
        study = open_study(PLAN, home.root, postgres_url)
        study.begin(1)
        together(chosen, study, Place(home.root, "", {}, home=home))
        study.close()
    made = kept(mlflow_url, tmp_path) - before
    assert sorted(name.partition("-")[0] for name in made) == ["curate", "evaluate", "floors", "prepare", "reference"]
    assert not (homes[1].root / "stages").exists()
    make_common(chosen, homes[1])
    assert caplog.text.count("brought from the MLflow server") == len(made) - 1, "what is prepared was curated"
    assert kept(mlflow_url, tmp_path) - before == made


def test_the_setting(tmp_path: Path) -> None:
    assert shared_stages(read_settings({}), None) is None
    with pytest.raises(ConfigError, match="SFT_SHARE=s3 is no place for finished stages; set it to mlflow"):
        read_settings({"SFT_SHARE": "s3"})
    with pytest.raises(ConfigError, match="recorded in the database sqlite:.*; set MLFLOW_TRACKING_URI"):
        shared_stages(read_settings({"SFT_SHARE": "mlflow", "SFT_HOME": str(tmp_path)}), None)
