"""Stage folders: the truth of the platform. `root/<stage>/<fingerprint>/`, complete when its done-mark says so.

A fingerprint covers everything that a stage's output depends on: its own config section, its inputs (by their content
where that is cheap to know) and the version of the code that makes it. Same fingerprint: reused. A stage without a
done-mark that carries exactly its fingerprint is redone (or, for training, continued from its last checkpoint).
Prefect, MLflow and Optuna only show what stands here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sft_core.errors import DamagedFile, SftError, disk_advice
from sft_core.locks import exclusive, share
from sft_core.visible import whole

DONE = "done.json"
USED = "used"
"""Lock file that all processes share which need the finished stage; only who has it alone may remove the stage."""


def canonical(value: object) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, sections as plain data."""

    def plain(item: object) -> object:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json", by_alias=True)
        if isinstance(item, Path):
            return str(item)
        raise TypeError(f"{type(item).__name__} has no canonical form")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain, ensure_ascii=False)


def fingerprint(*parts: object) -> str:
    """16 hex digits of SHA-256 over the canonical form of all parts."""
    return hashlib.sha256(canonical(list(parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def known(file: Path) -> list[object]:
    """Stands for a file's content, unread: its place, size, times and inode. Moves with every write, as nobody can set
    the time at which an inode changed; a file that was only touched, renamed or linked looks changed too."""
    stat = file.stat()
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text and never a part, also after a power cut. `whole` of a
    text is written: what no file can hold is no reason to lose the rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # tempfile's own would be readable by nobody else
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.write(whole(text))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # what a failure left; after the move there is nothing


def give_usual_mode(place: Path) -> None:
    """Give a file, or all files of a folder, the umask's mode: what safetensors writes only its owner may read."""
    with tempfile.TemporaryDirectory() as folder:  # `os.umask` would set it for what other threads write meanwhile
        (plain := Path(folder) / "plain").touch()
        mode = plain.stat().st_mode & 0o666
    for file in (place, *place.rglob("*")):
        if file.is_file():
            file.chmod(mode)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_folder(folder: Path, writing: Callable[[Path], AbstractContextManager[None]]) -> Iterator[Path]:
    """A draft that becomes `folder` at the end of the block: whole, or not at all.

    Args:
        writing: what is around the work on the disk, and says in its own words that a folder cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    drafts = re.compile(rf"\.{re.escape(folder.name)}\.\d+")  # in somebody's folder others may have such a beginning
    try:
        with writing(folder):
            for left in folder.parent.iterdir() if folder.parent.is_dir() else ():  # by a process that was killed
                if drafts.fullmatch(left.name) and left.is_dir():
                    shutil.rmtree(left)
            draft.mkdir(parents=True)
        yield draft
        with writing(folder):
            give_usual_mode(draft)
            for path in (*draft.iterdir(), draft):
                sync(path)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys in their order: what is shown as a table has its columns in it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *wanted: str) -> Any:
    """Read a JSON file that this platform wrote.

    Args:
        wanted: keys of the object that it is to hold.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no JSON, or without these keys.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of UTF-8 as well
        raise DamagedFile(f"{path} is no JSON any more ({error}): something has changed or cut it off since it was "
                          "written; restore it, or remove its folder and give the same command again") from error
    if wanted and not (isinstance(found, dict) and found.keys() >= set(wanted)):
        raise DamagedFile(f"{path} does not hold {', '.join(wanted)}: another version has written it, or something has "
                          "changed it since; restore it, or remove its folder and give the same command again")
    return found


def use(place: Path) -> None:
    """Hold the finished stage that this place lies in, or leads into, until this process ends, and note that it was
    used just now; elsewhere nothing."""
    for folder in place.resolve().parents:
        if (folder / DONE).is_file():
            share(folder / USED)
            with suppress(FileNotFoundError):  # it was removed before the lock was ours
                os.utime(folder / DONE)


@dataclass(frozen=True)
class Stage:
    """One stage of one run."""

    name: str
    fingerprint: str
    folder: Path

    @property
    def work(self) -> Path:
        """Where the stage writes; the same folder before and after it is done."""
        return self.folder / "out"

    def result(self) -> dict[str, Any] | None:
        """What the finished stage said, or None when it is not finished or its mark is for something else."""
        mark = self._mark()
        if mark is None or mark["fingerprint"] != self.fingerprint or not self.work.is_dir() or self._without(mark):
            return None
        return dict(mark["result"])

    def lost(self) -> list[str]:
        """Files that its mark lists and that are missing, or have another size than they had."""
        mark = self._mark()
        return [] if mark is None else self._without(mark)

    def _mark(self) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = read_json(self.folder / DONE, "fingerprint", "result")
        except (FileNotFoundError, NotADirectoryError, DamagedFile):  # `lock` says what is in the way
            return None
        return found

    def _without(self, mark: Mapping[str, Any]) -> list[str]:
        return [name for name, size in mark.get("files", {}).items()
                if not (file := self.work / name).is_file() or file.stat().st_size != size]

    @property
    def seconds(self) -> float | None:
        """How long the finished stage took when it was made; None where that is not known."""
        seconds: float | None = read_json(self.folder / DONE).get("seconds")
        return seconds

    def take(self) -> dict[str, Any] | None:
        """As `result`, of a stage that this process needs from now on: until it ends nobody removes it."""
        if self.result() is None:
            return None
        share(self.folder / USED)
        found = self.result()  # as it is after the wait for somebody who was removing it
        if found is not None:
            self.touch()
        return found

    def touch(self) -> None:
        """Note that the finished stage was used just now: the age of its done-mark."""
        os.utime(self.folder / DONE)

    def fresh(self) -> Path:
        """An empty work folder: what an earlier, unfinished try left is removed."""
        shutil.rmtree(self.work, ignore_errors=True)
        return self.resume()

    def resume(self) -> Path:
        """The work folder with whatever an earlier try left, for stages that can continue."""
        self.work.mkdir(parents=True, exist_ok=True)
        for name in self.lost():  # of one that was finished: half a file is worse than none
            (self.work / name).unlink(missing_ok=True)
        return self.work

    def finish(self, result: Mapping[str, object], seconds: float | None = None, *, listed: bool = False
               ) -> dict[str, Any]:
        """Write the done-mark, last of all.

        Args:
            seconds: how long it took, of a stage that was made in one go.
            listed: the mark lists the files that are there, and without one of them the stage counts as unfinished.

        Returns:
            The result as whoever finds the stage reads it, so that what is shown of it is the same.
        """
        share(self.folder / USED)
        files = {str(file.relative_to(self.work)): file.stat().st_size for file in sorted(self.work.rglob("*"))
                 if file.is_file() and not file.name.startswith(".")} if listed else {}
        write_json(self.folder / DONE, {"stage": self.name, "fingerprint": self.fingerprint, "seconds": seconds,
                                        "files": files, "result": dict(result)})
        return dict(read_json(self.folder / DONE)["result"])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep out a second process that wants to make the same stage; it waits and then finds it done.

        The lock belongs to the process and goes with it, also when it is killed.

        Raises:
            SftError: the folder cannot be made (no space, no permission).
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SftError(f"cannot make the stage folder {self.folder}: {error}; {disk_advice(error)}, or point "
                           "SFT_HOME at a folder that can be written") from error
        with exclusive(self.folder / "lock"):
            yield


class StageStore:
    """All stage folders of a workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str, stamp: str) -> Stage:
        """The stage of that name and fingerprint, finished or not; nothing is written."""
        return Stage(name, stamp, self.root / name / stamp)
