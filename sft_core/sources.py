"""Files, folders, hub ids and the tiny world → rows with their origin.

A broken line is a `Rejected`; a file that is missing, empty or something else than its name says is a `DataError`.
Columnar sources (Parquet, hub) fill absent keys of nested objects with None; these are taken out again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.config.data import SourceSection
from sft_core.conversation import Origin, Rejected, Row, Why
from sft_core.errors import DataError

_JSON_SHAPES = "it must hold an array of objects, or one object per line"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Hub(NamedTuple):
    """A data set that the `datasets` library reads: a hub id, or a local folder of the same shape."""

    place: str
    shown: str


def name_of(source: SourceSection) -> str:
    """The source's name in the ledger."""
    return source.name or Path(source.path).name


def resolve(source: SourceSection, *, scratch: Path, mirror: Path | None) -> list[Path] | Hub:
    """What a source's path means: files, or a hub data set. `tiny:…` is written into `scratch`.

    Raises:
        DataError: there is nothing of that name.
    """
    if source.path.startswith("tiny:"):
        return _tiny(source.path, scratch)
    path = Path(source.path).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.exists():
        return [path]
    if mirror is not None and (mirror / source.path).is_dir():
        return Hub(str(mirror / source.path), source.path)
    if _HUB_ID.fullmatch(source.path) and path.suffix not in _READERS:
        return Hub(source.path, source.path)
    raise DataError(f"there is no {source.path} (looked in {Path.cwd()}"
                    + (f" and {mirror}" if mirror else "") + "); give a file, a folder, a hub id org/name, tiny:sft or "
                    "tiny:replay")


def read_rows(source: SourceSection, *, scratch: Path, mirror: Path | None) -> Iterator[Row | Rejected]:
    """All rows of a source in order, at most `source.limit`, broken lines as `Rejected`.

    Raises:
        DataError: a file is missing, empty, of an unknown kind, or not what its name says; the hub cannot be reached.
    """
    return islice(_read(source, resolve(source, scratch=scratch, mirror=mirror)), source.limit)


def source_digest(source: SourceSection, *, scratch: Path, mirror: Path | None) -> str:
    """SHA-256 of what a source holds: the bytes of its files with their names, or the rows of a hub data set."""
    digest = hashlib.sha256()
    found = resolve(source, scratch=scratch, mirror=mirror)
    if isinstance(found, Hub):
        for data in _hub_rows(source, found):
            digest.update(json.dumps(data, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()
    for file in found:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read(source: SourceSection, found: list[Path] | Hub) -> Iterator[Row | Rejected]:
    name = name_of(source)
    if isinstance(found, Hub):
        for line, data in enumerate(_hub_rows(source, found), 1):
            yield Row(Origin(name, f"{found.shown}[{source.split}]", line), data)
        return
    for file in found:
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            raise DataError(f"{file} is of an unknown kind; allowed are {', '.join(_READERS)}")
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty; take it out of the sources or write it anew")
        for line, row in reader(file):
            origin = Origin(name, str(file), line)
            yield row._replace(origin=origin) if isinstance(row, Rejected) else Row(origin, row)


_Numbered = Iterator[tuple[int, Mapping[str, Any] | Rejected]]


def _broken(detail: str) -> Rejected:
    return Rejected(Why.UNREADABLE, detail, Origin("", "", 0))  # `_read` puts the origin in


def _object(value: object) -> Mapping[str, Any] | Rejected:
    return value if isinstance(value, dict) else _broken(f"not an object but {type(value).__name__}")


def _json(file: Path) -> _Numbered:
    """An array of objects, or JSON Lines under this name."""
    raw = file.read_bytes()
    if not raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _jsonl(file)
        return
    try:
        rows = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}; {_JSON_SHAPES}") from None
    if not rows:
        raise DataError(f"{file} holds an empty array; take it out of the sources or write it anew")
    for number, row in enumerate(rows, 1):
        yield number, _object(row)


def _jsonl(file: Path) -> _Numbered:
    """One object per line, blank lines aside. Lines end at \\n only: JSON text may hold other line separators."""
    good = 0
    broken: list[tuple[int, Rejected]] = []  # until one line is good: the file may be no JSON at all
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            row = _line(raw)
            if isinstance(row, Rejected) and not good:
                broken.append((number, row))
                continue
            good += not isinstance(row, Rejected)
            yield from broken
            broken.clear()
            yield number, row
    if not good:
        first = f"line {broken[0][0]}: {broken[0][1].detail}" if broken else "only blank lines"
        raise DataError(f"{file} holds no JSON object ({first}); {_JSON_SHAPES}")


def _line(raw: bytes) -> Mapping[str, Any] | Rejected:
    try:
        return _object(json.loads(raw.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        return _broken(f"not JSON: {error}")


def _csv(file: Path) -> _Numbered:
    csv.field_size_limit(sys.maxsize)  # the library's own limit of 128 KiB refuses long answers
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for number, row in enumerate(reader, 1):
                right = None not in row and None not in row.values()
                yield number, row if right else _broken(f"not the {len(reader.fieldnames or ())} fields of the header")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a UTF-8 CSV file with a header: {error}") from None


def _parquet(file: Path) -> _Numbered:
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, _without_none(row)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is not a Parquet file: {error}") from None


def _text(file: Path) -> _Numbered:
    """Documents divided by blank lines; a file without blank lines holds one document per line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}; convert it, e.g. with iconv") from None
    paragraphs = any(not line.strip() for line in lines[:-1])
    document: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            document.append(line)
        if document and (not paragraphs or not line.strip()):
            last = number if line.strip() else number - 1
            yield last - len(document) + 1, {"text": "\n".join(document)}
            document = []


_READERS: dict[str, Callable[[Path], _Numbered]] = {
    ".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".txt": _text
}


def _files_in(folder: Path) -> list[Path]:
    """Data files below a folder, sorted; hidden ones aside."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _READERS and path.is_file()
                   and not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not files:
        raise DataError(f"the folder {folder} holds no data file; allowed are {', '.join(_READERS)}")
    return files


def _tiny(path: str, scratch: Path) -> list[Path]:
    from sft_core.tiny.data import write_replay, write_sft

    if path == "tiny:sft":
        return write_sft(scratch / "tiny_sft")
    if path == "tiny:replay":
        return [write_replay(scratch / "tiny_replay")]
    raise DataError(f"there is no {path}; the tiny world has tiny:sft and tiny:replay")


def _hub_rows(source: SourceSection, hub: Hub) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(hub.place, source.subset, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"cannot load {hub.shown} (split {source.split}, subset {source.subset}): {error}; check the "
                        "name, split, subset and network, or give a local file or folder, or set SFT_MIRROR to a "
                        f"folder that holds {hub.shown}/") from error
    for row in rows:
        yield _without_none(row)


def _without_none(value: Any, top: bool = True) -> Any:
    """Drop None values of nested objects; the columns of the row itself stay."""
    if isinstance(value, dict):
        return {key: _without_none(item, top=False) for key, item in value.items() if top or item is not None}
    if isinstance(value, list):
        return [_without_none(item, top=False) for item in value]
    return value
