"""Shards on a Dask cluster: two worker processes compute what one process does, also when one of them dies."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("prefect_dask")

import dask

from infra import dask as door
from infra.dask import Cluster, check_cluster, cluster, refuse_others
from sft_core.config.data import DataSection
from sft_core.data.curate.chain import curate_here
from sft_core.data.shards import shards_of
from sft_core.errors import ConfigError, DataError, OrchestrationError
from tasks.curate import workers_of
from tasks.stages import Workspace


@pytest.fixture(scope="module")
def two():
    with cluster("local:2") as workers:
        yield workers


def double(number: int) -> int:
    return 2 * number


def fails_on_three(number: int) -> int:
    if number == 3:
        raise DataError("three is not allowed")
    return number


def dies_once(number: int, mark: Path) -> int:
    if number == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


class TestMap:
    def test_results_come_in_order(self, two: Cluster) -> None:
        assert list(two.map(double, range(20))) == list(range(0, 40, 2))
        assert list(two.map(double, [])) == []

    def test_several_processes_compute(self, two: Cluster) -> None:
        pids = set(two.everywhere(os.getpid).values())
        assert len(pids) == 2
        assert os.getpid() not in pids

    def test_an_error_is_that_of_the_function(self, two: Cluster) -> None:
        found = two.map(fails_on_three, range(10))
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match="three is not allowed"):
            next(found)

    def test_the_shards_of_a_worker_that_dies_are_computed_by_another(self, two: Cluster, tmp_path: Path) -> None:
        assert list(two.map(partial(dies_once, mark=tmp_path / "mark"), range(10))) == list(range(10))
        assert (tmp_path / "mark").exists()


def test_curation_is_that_of_one_process(two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft_core.data.shards.SHARD_ROWS", 40)
    rows = tmp_path / "rows.jsonl"
    said = [f"this is answer {n % 150} of a hundred and fifty, which {n % 150} alone tells apart" for n in range(200)]
    rows.write_text("".join(f'{{"instruction": "ask {n % 150}", "output": "{text}{"!" * (n > 160)}"}}\n'
                            for n, text in enumerate(said)))
    data = DataSection.model_validate({"sources": [{"path": str(rows), "name": "rows"}], "max_tokens": 100})
    here = curate_here(data, (), tmp_path / "here")
    there = curate_here(data, (), tmp_path / "there", workers=two)
    assert len(shards_of(here)) == 5
    names = sorted(file.name for file in here.iterdir())
    assert names == sorted(file.name for file in there.iterdir())
    assert "duplicates.parquet" in names
    for name in names:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_a_new_workspace_is_there_before_workers_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(door, "cluster", lambda _: nullcontext("workers"))
    monkeypatch.setattr(door, "refuse_others", lambda _, folder, code: seen.append(folder.is_dir()))
    with workers_of(None, Workspace(tmp_path / "new", None, dask="local:2")) as several:
        assert (several, seen) == ("workers", [True])


class TestWorkersThatCannotBeUsed:
    def test_those_without_the_folder_or_with_other_code_are_refused(self, two: Cluster, tmp_path: Path) -> None:
        refuse_others(two, tmp_path, str)
        with pytest.raises(OrchestrationError, match=r"does not see .*nothing; SFT_HOME must be on storage"):
            refuse_others(two, tmp_path / "nothing", str)
        with pytest.raises(OrchestrationError, match="has other code than this process"):
            refuse_others(two, tmp_path, lambda: str(os.getpid()))

    def test_a_shard_that_ends_every_worker_is_told(self) -> None:
        with (dask.config.set({"distributed.scheduler.allowed-failures": 1}), cluster("local:1") as one,
              pytest.raises(DataError, match="ended several workers .* give them more")):
            list(one.map(dies, range(4)))

    def test_a_cluster_without_workers_is_told(self, two: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(door, "ALONE_S", 0.1)
        monkeypatch.setattr(two._client, "nthreads", dict)
        with pytest.raises(DataError, match=r"has had no worker for .* s; start some \(`dask worker"):
            list(two.map(double, range(4)))

    def test_a_scheduler_that_is_not_there_is_told(self) -> None:
        with (dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
              pytest.raises(OrchestrationError, match="no Dask scheduler answers at tcp://127.0.0.1:9 "),
              cluster("tcp://127.0.0.1:9")):
            pass

    def test_an_absent_extra_is_told_with_its_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
        with (pytest.raises(OrchestrationError, match=r"pip install 'sft-platform\[dask\]'"), cluster("local:2")):
            pass


@pytest.mark.parametrize("address", ["local:0", "local:x", "local", "host:8786", "tcp", "http://u:geheim@host"])
def test_addresses_of_nothing_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no Dask cluster; set it to the address of a scheduler") as error:
        check_cluster(address)
    assert "geheim" not in str(error.value)


def test_addresses_of_clusters_stay_as_they_are() -> None:
    assert [check_cluster(one) for one in ("local:2", "tcp://host:8786", "tls://host:8786")] == [
        "local:2", "tcp://host:8786", "tls://host:8786"]
