"""Files, folders, hub ids and the tiny world → rows with their origin.

A broken line is a `Rejected`; a file that is missing, empty or something else than its name says is a `DataError`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.config.data import SourceSection
from sft_core.conversation import Origin, Rejected, Row
from sft_core.data.columnar import Told, rows_of
from sft_core.data.localhub import Absent, knock, named_by_content, why_absent
from sft_core.data.readers import READERS, kind_of, read_file, reader_of
from sft_core.data.splits import by_split, named_otherwise
from sft_core.errors import DataError
from sft_core.stage import file_digest
from sft_core.stopping import check

log = logging.getLogger("sft")
TINY = ("tiny:sft", "tiny:replay", "tiny:problems")
"""What the tiny world has: chats, raw text, and word problems as people would ask them."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("state.json", "dataset_dict.json")  # what `Dataset.save_to_disk` leaves
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "config.json", *_SAVED)  # beside the rows, as on the hub


class Hub(NamedTuple):
    """A data set that the `datasets` library reads: a hub id, or a local folder of the same shape."""

    place: str
    shown: str
    local: bool


def name_of(source: SourceSection) -> str:
    """The source's name in the ledger."""
    return source.name or Path(source.path).name


def resolve(source: SourceSection, *, scratch: Path, mirror: Path | None) -> list[Path] | Hub:
    """What a source's path means: files, or a hub data set. `tiny:…` is written into `scratch`.

    A local folder whose README.md declares `configs:`, or that `save_to_disk` wrote, is read like a hub data set. Of
    other folders the files of the split are meant.

    Raises:
        DataError: there is nothing of that name, or no such split.
    """
    if source.path.startswith("tiny:"):
        return _tiny(source.path, scratch)
    path = Path(source.path).expanduser()
    if path.is_dir():
        if _is_saved(path):
            return Hub(str(path), source.path, local=True)
        return _snapshot(source, path, scratch) if _declares_splits(path) else _files_of(source, path)
    if path.exists():
        return [path]
    if mirror is not None and (mirror / source.path).is_dir():
        return _snapshot(source, mirror / source.path, scratch)
    if _HUB_ID.fullmatch(source.path) and kind_of(path) not in READERS:
        return Hub(source.path, source.path, local=False)
    raise _nothing(source, mirror)


def why_no_source(source: SourceSection, mirror: Path | None) -> Absent | None:
    """Why a source cannot be read on this machine, as far as names, sizes and first rows tell; None where it is there.
    Nothing is written."""
    path = Path(source.path).expanduser()
    try:
        if source.path.startswith("tiny:"):
            _check_tiny(source.path)
        elif path.exists():
            _refuse_what_is_the_hubs(source)
            elsewhere = path.is_dir() and (_is_saved(path) or _declares_splits(path))
            for file in [path] if path.is_file() else [] if elsewhere else _files_of(source, path):
                reader_of(file)
                if kind_of(file) != ".json":  # an array is read whole
                    next(read_file(file), None)
        elif _HUB_ID.fullmatch(source.path) and kind_of(path) not in READERS:
            return why_absent(source.path, mirror)
        elif mirror is None or not (mirror / source.path).is_dir():
            raise _nothing(source, mirror)
    except DataError as error:
        return Absent("missing", str(error))
    return None


def _nothing(source: SourceSection, mirror: Path | None) -> DataError:
    return DataError(f"there is no {source.path} (looked in {Path.cwd()}, the current directory"
                     + (f", and {mirror}" if mirror else "") + "); give a file, a folder, a hub id org/name, tiny:sft "
                     "or tiny:replay")


def read_rows(source: SourceSection, *, scratch: Path, mirror: Path | None) -> Iterator[Row | Rejected]:
    """All rows of a source in order, at most `source.limit`, broken lines as `Rejected`. Nothing is held back.

    Raises:
        DataError: a file is missing, empty, of an unknown kind, or not what its name says; the hub cannot be reached;
            there is no such split.
    """
    _refuse_what_is_the_hubs(source)
    return islice(_read(source, resolve(source, scratch=scratch, mirror=mirror)), source.limit)


def source_digest(source: SourceSection, *, scratch: Path, mirror: Path | None) -> str:
    """SHA-256 of what a source holds: the bytes of its files with their names, or the rows read of a hub data set."""
    digest = hashlib.sha256()
    found = resolve(source, scratch=scratch, mirror=mirror)
    if isinstance(found, Hub):
        for told in islice(_hub_rows(source, found), source.limit):
            check()
            digest.update(json.dumps(told, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()
    for file in found:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                check()
                digest.update(block)
    return digest.hexdigest()


def source_files(source: SourceSection, *, scratch: Path, mirror: Path | None) -> dict[str, str]:
    """SHA-256 of every file of a source by its name within the source; of a hub data set that of its rows.

    Raises:
        DataError: see `resolve`.
    """
    found = resolve(source, scratch=scratch, mirror=mirror)
    if isinstance(found, Hub):
        return {f"{found.shown}[{source.split}]": source_digest(source, scratch=scratch, mirror=mirror)}
    folder = Path(os.path.commonpath([file.parent for file in found]))
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in found}


def _read(source: SourceSection, found: list[Path] | Hub) -> Iterator[Row | Rejected]:
    name = name_of(source)
    if isinstance(found, Hub):
        for line, told in enumerate(_hub_rows(source, found), 1):
            yield Row(Origin(name, f"{found.shown}[{source.split}]", line), told.data, told.nulls)
        return
    for file in found:
        for line, row, nulls in read_file(file):
            origin = Origin(name, str(file), line)
            yield row._replace(origin=origin) if isinstance(row, Rejected) else Row(origin, row, nulls)


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


def _refuse_what_is_the_hubs(source: SourceSection) -> None:
    """A file has no splits, and what lies on this machine no revisions."""
    path = Path(source.path).expanduser()
    if source.revision and path.exists():
        raise DataError(f"{source.path} is on this machine and has no revision {source.revision}; leave that out (the "
                        "run records a hash of what it reads), or give the hub id")
    asked = f"split {source.split}" if source.split != "train" else f"subset {source.subset}"
    if (source.split != "train" or source.subset) and path.is_file():
        raise DataError(f"{source.path} is one file and has no {asked}; leave that out, or give the folder or hub id "
                        "that has it")


def _files_of(source: SourceSection, folder: Path) -> list[Path]:
    """The files of a source's split; those that are in no split of the folder are told."""
    files = _files_in(folder)
    splits = by_split(folder, files)
    there = ", ".join(splits)
    if source.split not in splits:
        below = Path(os.path.commonpath([file.parent for file in files]))
        advice = f"set path: {below}, which has it, or" if below != folder and source.split in by_split(below, files) \
            else f"set split: {next(iter(splits))}, for example, or"
        raise DataError(f"the folder {folder} has no split {source.split}; by the names of its files there are "
                        f"{there}; {advice} give files instead of the folder")
    if source.subset:
        raise DataError(f"the folder {folder} has no subset {source.subset}: its README.md declares no configs; leave "
                        "subset out, or give a folder below it")
    _tell_split(folder, source.split, splits)
    named = {file for one in splits.values() for file in one}
    if unnamed := [file for file in files if file not in named]:
        log.warning("%s: %d files are in none of its splits (%s) and are left out, the first: %s; to read them, give "
                    "them as a source of their own", folder, len(unnamed), there, unnamed[0].relative_to(folder))
    return splits[source.split]


def _tell_split(folder: Path, split: str, splits: Mapping[str, Sequence[Path]]) -> None:
    """Say which splits of a folder are not read, and which files of this one look as if they were of another."""
    said = {name: f"{name} ({len(files)} files, the first: {files[0].relative_to(folder)})"
            for name, files in splits.items()}
    if others := ", ".join(text for name, text in said.items() if name != split):
        log.info("%s: the split %s is read and not %s; to read those, give them as a source of their own",
                 folder, said[split], others)
    if strange := named_otherwise(split, splits[split]):
        log.warning("%s: %d files are read as split %s, as the hub does, though their names say otherwise, the first: "
                    "%s; if they are not meant, give the right files as sources of their own", folder, len(strange),
                    split, strange[0].relative_to(folder))


def _files_in(folder: Path) -> list[Path]:
    """Data files below a folder, sorted; hidden ones aside."""
    files = sorted(path for path in folder.rglob("*") if kind_of(path) in READERS and path.is_file()
                   and path.name not in _NO_ROWS
                   and not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not files:
        raise DataError(f"the folder {folder} holds no data file; allowed are {', '.join(READERS)}, each also with .gz")
    return files


def _snapshot(source: SourceSection, folder: Path, scratch: Path) -> Hub:
    return Hub(str(named_by_content(folder, scratch / "hub")), source.path, local=True)


def _declares_splits(folder: Path) -> bool:
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("---")[:2] if card.is_file() else []
    return len(head) == 2 and not head[0].strip() and re.search(r"^configs:", head[1], re.MULTILINE) is not None


def _check_tiny(path: str) -> None:
    if path not in TINY:
        raise DataError(f"there is no {path}; the tiny world has {', '.join(TINY)}")


def _tiny(path: str, scratch: Path) -> list[Path]:
    from sft_core.tiny.data import write_problems, write_replay, write_sft

    _check_tiny(path)
    if path == "tiny:sft":
        return write_sft(scratch / "tiny_sft")
    write = write_replay if path == "tiny:replay" else write_problems
    return [write(scratch / path.replace(":", "_"))]


def _saved(folder: Path, source: SourceSection) -> Any:
    """The split of what `save_to_disk` wrote; one without splits is `train`, unless it knows better."""
    import datasets

    found = datasets.load_from_disk(str(folder))
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    if source.split not in splits:
        raise DataError(f"the folder {folder} has no split {source.split}; there are {', '.join(splits)}; set split: "
                        f"{next(iter(splits))}, for example")
    return splits[source.split]


def _hub_rows(source: SourceSection, hub: Hub) -> Iterator[Told]:
    """Rows as Arrow keeps them: the library's own rows no longer show which nulls were filled in."""
    import datasets
    import pyarrow as pa
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the library's own choice of client

    try:
        if not hub.local:
            with suppress(OfflineModeIsEnabled):  # `datasets` then looks into its cache, at once
                knock(hub.place)
        found = _saved(Path(hub.place), source) if _is_saved(Path(hub.place)) else datasets.load_dataset(
            hub.place, source.subset, split=source.split, streaming=source.streaming, revision=source.revision)
        for table in found.with_format("arrow").iter(batch_size=256):
            yield from rows_of(table)
    except (OSError, ValueError, RuntimeError, pa.ArrowException, httpx.HTTPError,
            datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot load {hub.shown} (split {source.split}, subset {source.subset}): {error}; check the name, split, "
            "subset and network, or give a local file or folder, or set SFT_MIRROR to a folder that holds "
            f"{hub.shown}/. With HF_HUB_OFFLINE=1 an earlier download is used") from error
