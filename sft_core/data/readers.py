"""One reader per kind of file: file → numbered rows, a broken one as `Rejected`.

Every file is read row by row: memory does not grow with it. A file that is empty or something else
than its name says is a `DataError`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sft_core.conversation import Origin, Rejected, Why
from sft_core.data.columnar import rows_of
from sft_core.data.jsonstream import MOST, elements
from sft_core.errors import DataError
from sft_core.stopping import check

_JSON_SHAPES = "it must hold an array of objects, or one object per line"
_TO_UTF8 = "convert it to UTF-8, e.g. with iconv -f LATIN1 -t UTF-8"
_WRAPPED = re.compile(rb'\{\s*"(?:data|rows|train|validation|test|examples|instances|items|records)"\s*:\s*\[')
"""An object that may hold nothing but rows."""
_BOM = b"\xef\xbb\xbf"


class Numbered(NamedTuple):
    """A row and where it stands in its file."""

    line: int
    row: Mapping[str, Any] | Rejected  # of a Rejected the origin is filled in by the caller
    nulls: tuple[str, ...] = ()


_Reader = Callable[[Path], Iterator[Numbered]]


def read_file(file: Path) -> Iterator[Numbered]:
    """The rows of a file in order, read according to its name; `.gz` behind it is unpacked on the way.

    Raises:
        DataError: the file is empty, of an unknown kind, may not be read, is cut off, or is not what its name says.
    """
    reader = reader_of(file)
    try:
        if reader is not _parquet:
            _refuse_wide(file)
        yield from reader(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is not a whole gzip file: {error}; fetch or pack it again") from None


def reader_of(file: Path) -> _Reader:
    """What reads a file of its name.

    Raises:
        DataError: the file is empty, of an unknown kind, or may not be read.
    """
    reader = READERS.get(kind_of(file))
    if reader is None:
        raise DataError(f"{file} is of an unknown kind; allowed are {', '.join(READERS)}, each also with .gz")
    try:
        file.open("rb").close()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; let the user of this run read it (chmod a+r), or "
                        "copy it") from error
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty; take it out of the sources or write it anew")
    return reader


def _refuse_wide(file: Path) -> None:
    """Text of two or four bytes a character, with its mark or without."""
    with _open(file) as stream:
        start = stream.read(1 << 12)
    marks = {b"\xff\xfe\0\0": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    name = next((name for mark, name in marks.items() if start.startswith(mark)), None)
    if not name and start.count(b"\0") > len(start) // 4:
        name = "UTF-16LE" if start[1::2].count(b"\0") > start[::2].count(b"\0") else "UTF-16BE"
    if name:
        raise DataError(f"{file} is {name} and not UTF-8; convert it, e.g. with iconv -f {name} -t UTF-8")


def kind_of(file: Path) -> str:
    """The suffix that says how to read a file, without `.gz`."""
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb")  # type: ignore[return-value]


def _broken(detail: str) -> Rejected:
    return Rejected(Why.UNREADABLE, detail, Origin("", "", 0))


def _object(value: object) -> Mapping[str, Any] | Rejected:
    return value if isinstance(value, dict) else _broken(f"not an object but {type(value).__name__}")


def _json(file: Path) -> Iterator[Numbered]:
    """An array of objects, alone or as the only thing in an object, or JSON Lines under this name."""
    start = _start(file)
    if start.startswith(b"["):
        try:
            yield from _objects(file, wrapped=False)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}; {_TO_UTF8}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not valid JSON: {error}; {_JSON_SHAPES}. Written as JSON Lines, one bad row "
                            "would not cost the others") from None
        return
    if not _WRAPPED.match(start):
        yield from _jsonl(file)
    elif _is_array(file, wrapped=True):
        yield from _objects(file, wrapped=True)
    else:
        _refuse_several(file)
        yield from _jsonl(file)


def _json_lines(file: Path) -> Iterator[Numbered]:
    """JSON Lines, or an array of objects under this name."""
    array = _start(file).startswith(b"[") and _is_array(file, wrapped=False)
    yield from _objects(file, wrapped=False) if array else _jsonl(file)


def _start(file: Path) -> bytes:
    with _open(file) as stream:
        return stream.read(1 << 12).removeprefix(_BOM).lstrip()


def _is_array(file: Path, *, wrapped: bool) -> bool:
    """Whether the file is one array from its beginning to its end and holds an object."""
    with _open(file) as stream:
        try:
            return any([isinstance(row, dict) for row in elements(stream, wrapped)])
        except (ValueError, RecursionError):  # several lines, perhaps
            return False


def _refuse_several(file: Path) -> None:
    """An object of several lists of objects: which one is meant, nobody knows."""
    with _open(file) as stream:
        text = stream.read(MOST)
    with suppress(ValueError, RecursionError):  # several lines, perhaps
        rows = json.loads(text.removeprefix(_BOM))
        if isinstance(rows, dict) and all(isinstance(of, list) and of and isinstance(of[0], dict)
                                          for of in rows.values()):
            first = next(iter(rows))
            raise DataError(f"{file} holds several lists of rows ({', '.join(rows)}); write the one that is meant into "
                            f"a file of its own, e.g. by jq -c '.{first}[]' {file.name} > {first}.jsonl")


def _objects(file: Path, *, wrapped: bool) -> Iterator[Numbered]:
    number = 0
    with _open(file) as stream:
        for number, row in enumerate(elements(stream, wrapped), 1):
            yield Numbered(number, _object(row))
    if not number:
        raise DataError(f"{file} holds an empty array; take it out of the sources or write it anew")


def _jsonl(file: Path) -> Iterator[Numbered]:
    """One object per line, blank lines aside. Lines end at \\n only: JSON text may hold other line separators."""
    good = 0
    broken: list[Numbered] = []  # until one line is good: the file may be no JSON at all
    with _open(file) as stream:
        for number, raw in enumerate(_raw_lines(stream), 1):
            if not raw.strip():
                check()
                continue
            row = _line(raw) if len(raw) <= MOST else _broken(f"longer than {MOST >> 20} MiB")
            if isinstance(row, Rejected) and not good:
                broken.append(Numbered(number, row))
                continue
            good += not isinstance(row, Rejected)
            yield from broken
            broken.clear()
            yield Numbered(number, row)
    if not good:
        first = f"line {broken[0].line}: {_detail(broken[0])}" if broken else "only blank lines"
        raise DataError(f"{file} holds no JSON object ({first}); {_JSON_SHAPES}")


def _raw_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends; of one that is longer than `MOST`, a little more than that."""
    while raw := stream.readline(MOST + 1):
        yield raw
        while len(raw) > MOST and not raw.endswith(b"\n"):
            check()
            raw = stream.readline(MOST + 1)


def _detail(numbered: Numbered) -> str:
    return numbered.row.detail if isinstance(numbered.row, Rejected) else ""


def _line(raw: bytes) -> Mapping[str, Any] | Rejected:
    try:
        return _object(json.loads(raw.removeprefix(_BOM).decode()))
    except UnicodeDecodeError as error:
        return _broken(f"not UTF-8: {error}; {_TO_UTF8}")
    except (ValueError, RecursionError) as error:
        return _broken(f"not JSON: {error}")


def _csv(file: Path) -> Iterator[Numbered]:
    yield from _table(file, ",;\t")


def _tsv(file: Path) -> Iterator[Numbered]:
    yield from _table(file, "\t")


def _table(file: Path, delimiters: str) -> Iterator[Numbered]:
    """A header and rows, divided by the first of `delimiters` that the header has."""
    csv.field_size_limit(sys.maxsize)  # the library's own limit of 128 KiB refuses long answers
    number = 0
    try:
        header = next(_lines(file), "")
        delimiter = next((one for one in delimiters if one in header), delimiters[0])
        for number, row in enumerate(csv.DictReader(_lines(file), strict=True, delimiter=delimiter), 1):
            given = len(row) - 1 + len(row[None]) if None in row else sum(v is not None for v in row.values())
            wanted = len(row) - (None in row)
            yield Numbered(number, row if given == wanted else _broken(
                f"{given} fields, the header has {wanted}; a field that holds {delimiter!r}, a quote or a line break "
                "must be quoted"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a UTF-8 {kind_of(file)[1:].upper()} file with a header (behind row {number}): "
                        f"{error}; {_TO_UTF8}") from None


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends, which may stand inside a quoted field."""
    with _open(file) as stream:
        for at, raw in enumerate(_raw_lines(stream)):
            if len(raw) > MOST:
                raise DataError(f"line {at + 1} of {file} is longer than {MOST >> 20} MiB: it is no text, or it has "
                                "lost its line ends")
            yield (raw if at else raw.removeprefix(_BOM)).decode()


def _parquet(file: Path) -> Iterator[Numbered]:
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
            for told in rows_of(batch):
                number += 1
                yield Numbered(number, told.data, told.nulls)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a whole Parquet file: {error}; fetch or write it again") from None


def _text(file: Path) -> Iterator[Numbered]:
    """Documents divided by blank lines; a file without blank lines holds one document per line."""
    paragraphs = any(not line.strip() for line in _text_lines(file))
    document: list[str] = []
    number = 0
    for number, raw in enumerate(_text_lines(file), 1):
        line = raw.rstrip("\r\n")
        if line.strip():
            document.append(line)
        if document and not (paragraphs and line.strip()):
            yield _document(document, number if line.strip() else number - 1)
            document = []
    if document:
        yield _document(document, number)


def _document(lines: list[str], last: int) -> Numbered:
    return Numbered(last - len(lines) + 1, {"text": "\n".join(lines)})


def _text_lines(file: Path) -> Iterator[str]:
    try:
        yield from _lines(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}; {_TO_UTF8}") from None


READERS: Mapping[str, _Reader] = {
    ".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet,
    ".txt": _text
}
