"""Answers by content: a model is asked the same ids once, ever; a killed evaluation goes on behind its last batch.

One append-only file per model and backend. A key holds the ids and what ends the answer, so template, protocol, task
version and item are in it by what they come to. A line torn by a kill is passed over.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from eval_suites.backends.contract import Backend, Continuation, Generation, Likelihood, Prompt, Stops
from sft_core.stage import fingerprint

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


def digest(*ids: Sequence[int], extra: str = "") -> str:
    """32 hex digits that stand for id lists and how they are used."""
    found = hashlib.blake2b(extra.encode(), digest_size=16)
    for one in ids:
        found.update(len(one).to_bytes(8, "little") + array("q", one).tobytes())
    return found.hexdigest()


class KeptRows:
    """Rows by key, in an append-only file that is read once; without a file, for as long as the process lives."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._known = file, _read(file) if file else {}

    def get(self, key: str) -> Any:
        """The row, or None."""
        return self._known.get(key)

    def put(self, key: str, row: object) -> None:
        """Keep a row; it is in the file before this returns."""
        self._known[key] = row
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab", buffering=0) as out:  # one write: rows of two processes are not mixed
            out.write(f"\n{json.dumps([key, row])}".encode())  # a newline first: it ends a torn line


class Cached:
    """A backend that asks another one only what was never asked.

    Args:
        inner: who computes.
        folder: where the answers of all models lie; None: they are kept for as long as this object lives.
        model: content hash of the model.
    """

    def __init__(self, inner: Backend, folder: Path | None, model: str) -> None:
        self._inner = inner
        self._kept = KeptRows(folder / f"{fingerprint(model, inner.name)}.jsonl" if folder else None)
        self.computed = 0

    @property
    def name(self) -> str:
        """The inner backend's."""
        return self._inner.name

    @property
    def window(self) -> int:
        """The inner backend's."""
        return self._inner.window

    @property
    def batch_tokens(self) -> int:
        """The inner backend's."""
        return self._inner.batch_tokens

    def likelihoods(self, asked: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """As `Backend.likelihoods`; answers that are not finite are not kept."""
        keys = [digest(one.context, one.continuation, extra="likelihood") for one in asked]
        yield from self._through(
            keys, asked, self._inner.likelihoods, lambda row: Likelihood(row[0], bool(row[1])),
            lambda found: [found.logprob, found.greedy] if math.isfinite(found.logprob) else None)

    def generate(self, asked: Sequence[Prompt], stops: Stops) -> Iterator[tuple[int, Generation]]:
        """As `Backend.generate`; failures are not kept."""
        how = f"generate {sorted(stops.ids)} {stops.key}"
        keys = [digest(one.ids, extra=" ".join([how, str(one.longest), *map(repr, one.draw or ())])) for one in asked]
        yield from self._through(
            keys, asked, lambda missing: self._inner.generate(missing, stops),
            lambda row: Generation(tuple(row[0]), bool(row[1])),
            lambda found: None if found.why else [found.ids, found.stopped])

    def _through(self, keys: Sequence[str], asked: Sequence[Asked],
                 compute: Callable[[Sequence[Asked]], Iterator[tuple[int, Answered]]],
                 decode: Callable[[Any], Answered], encode: Callable[[Answered], Any]
                 ) -> Iterator[tuple[int, Answered]]:
        missing = []
        for place, key in enumerate(keys):
            if (row := self._kept.get(key)) is not None:
                yield place, decode(row)
            else:
                missing.append(place)
        if not missing:
            return
        for at, found in compute([asked[place] for place in missing]):
            self.computed += 1
            if (row := encode(found)) is not None:
                self._kept.put(keys[missing[at]], row)
            yield missing[at], found


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not file.exists():
        return found
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                key, row = json.loads(line)
            except (json.JSONDecodeError, TypeError, ValueError):
                continue
            found[key] = row
    return found
