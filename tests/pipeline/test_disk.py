"""A disk that is full or read-only is said in one sentence, and the same command goes on once there is room again."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from flows.around import in_our_words
from infra.disk import disk_error
from sft_core.errors import DiskError, TrackingError

Sft = Callable[..., subprocess.CompletedProcess[str]]
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts something at a new folder; unmounted at the end of the test."""
    made: list[Path] = []

    def at(name: str, *arguments: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(["mount", *map(str, arguments), str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield at
    for folder in reversed(made):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def the_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that failed, which is all that it says besides what it has begun."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("DiskError: ")]
    assert done.stderr.rstrip().endswith(said)
    return said


def test_artifacts_on_a_disk_of_their_own_that_is_full(sft: Sft, config: Path, mount: Mount, tmp_path: Path) -> None:
    """The folder that is full is named, not the one that was copied from; MLflow's own traceback is not shown."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlartifacts").symlink_to(mount("artifacts", "-t", "tmpfs", "-o", "size=1m", "tmpfs"))
    said = the_sentence(sft("run", config, SFT_HOME=str(home)))
    assert f"there is no space left in {home / 'mlartifacts'}/" in said


@pytest.mark.chaos
def test_a_disk_that_is_full_in_prepare_and_in_training(sft: Sft, config: Path, mount: Mount) -> None:
    """It was 190 to 250 lines of tracebacks."""
    home = mount("small", "-t", "tmpfs", "-o", "size=64m", "tmpfs") / "home"

    def ballast(left_bytes: int) -> Path:
        file = home.parent / "ballast"
        disk = os.statvfs(home.parent)
        file.write_bytes(b"\0" * (disk.f_bavail * disk.f_frsize - left_bytes))
        return file

    home.mkdir()
    filled = ballast(200_000)
    said = the_sentence(sft("run", config, SFT_HOME=str(home)))
    assert f"there is no space left in {home}" in said
    assert "SFT_HOME" in said
    filled.unlink()
    whole = sft("run", config, SFT_HOME=str(home))
    assert whole.returncode == 0, whole.stderr
    private = [path for path in home.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044]
    assert not [path for path in private if "prefect" not in path.parts], "files have the umask's mode"

    filled = ballast(600_000)
    other = ("run", config, "--set", "train.optim.lr=2e-3")
    assert "there is no space left in" in the_sentence(sft(*other, SFT_HOME=str(home)))
    filled.unlink()
    again = sft(*other, SFT_HOME=str(home))
    assert again.returncode == 0, again.stderr


def test_a_workspace_that_is_read_only(sft: Sft, config: Path, tmp_path: Path, mount: Mount) -> None:
    """It was blamed on MLflow."""
    (tmp_path / "there").mkdir()
    home = mount("locked", "--bind", "-o", "ro", tmp_path / "there")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True)
    for command in (("run", config), ("compare", "a", "b"), ("data", "show", config)):
        said = the_sentence(sft(*command, SFT_HOME=str(home)))
        assert f"{home} cannot be written (read-only, or no permission)" in said
        assert "MLflow" not in said


def test_what_libraries_say_of_a_disk(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    tracking = TrackingError("MLflow at sqlite could not open the store")
    tracking.__cause__ = full
    for error in (full, tracking, RuntimeError("Error while serializing: I/O error: No space left (os error 28)")):
        assert f"no space left in {tmp_path}" in str(disk_error(error, tmp_path))
    named = OSError(28, "No space left on device", "/data/x/file")
    assert "no space left in /data/x:" in str(disk_error(named, tmp_path))
    assert disk_error(RuntimeError("PytorchStreamWriter failed"), tmp_path) is None, "there is room: another reason"
    assert disk_error(FileNotFoundError(2, "no such file"), tmp_path) is None


def test_what_sqlite_says_of_a_disk(tmp_path: Path, mount: Mount) -> None:
    folder = mount("tiny", "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    with create_engine(f"sqlite:///{folder / 'x.db'}", isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("create table t (x blob)"))
        with pytest.raises(OperationalError) as caught:
            connection.execute(text("insert into t values (zeroblob(1000000))"))
    assert f"no space left in {folder}" in str(disk_error(caught.value, folder))


def test_prefect_shows_the_sentence_and_not_what_a_library_said(tmp_path: Path) -> None:
    full, other = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x")), ValueError("nothing of a disk")
    with pytest.raises(DiskError, match=f"there is no space left in {tmp_path}: free some") as told, \
            in_our_words(tmp_path):
        raise full
    assert told.value.__cause__ is full
    for error in (other, told.value):
        with pytest.raises(type(error)) as same, in_our_words(tmp_path):
            raise error
        assert same.value is error
