"""Made-up Alpaca rows of any number: its lengths, words with a natural skew, and planted duplicates.

Words a row: the texts of Alpaca (`random_9k.json` of the shared folder) have ln(words) of mean 3.80 and standard
deviation 0.76, 59 words a row. Words are made of letters and drawn from 30,000 with Zipf's law, so that three in a row
are seldom the same by chance. Of a hundred rows two are equal to an earlier one and three are an earlier one with its
last word changed (earlier among the same ten thousand); one holds an e-mail address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WORDS = 30_000
LOG_MEAN, LOG_SPREAD = 3.80, 0.76
SHORTEST, LONGEST = 8, 600  # words of a row
EQUAL, NEAR, MAIL = 0.02, 0.03, 0.01  # shares of rows
AT_ONCE = 10_000


def write_rows(file: Path, count: int, seed: int) -> None:
    """Write so many rows as JSONL, holding few of them at a time."""
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows_of(count, seed))


def rows_of(count: int, seed: int) -> Iterator[dict[str, str]]:
    """So many rows; equal for equal arguments."""
    random = np.random.default_rng(seed)
    words = _vocabulary(random)
    skew = np.cumsum(1 / (np.arange(WORDS) + 3))
    for at in range(0, count, AT_ONCE):
        rows = min(AT_ONCE, count - at)
        lengths = np.exp(random.normal(LOG_MEAN, LOG_SPREAD, rows)).astype(int).clip(SHORTEST, LONGEST)
        drawn = words[np.searchsorted(skew, random.random(int(lengths.sum())) * skew[-1]).clip(0, WORDS - 1)]
        yield from map(_row, _planted(np.split(drawn, np.cumsum(lengths)[:-1]), random))


def _vocabulary(random: np.random.Generator) -> np.ndarray:
    letters = random.choice(list("etaoinshrdlucmfwygpbvk"), (WORDS, 9)).view("U9").ravel().tolist()
    return np.array([word[:length] for word, length in zip(letters, random.integers(2, 10, WORDS), strict=True)])


def _planted(rows: list[np.ndarray], random: np.random.Generator) -> Iterator[list[str]]:
    for at, kind in enumerate(random.random(len(rows))):
        row = rows[at if kind >= EQUAL + NEAR else int(random.integers(0, at + 1))].tolist()
        if EQUAL <= kind < EQUAL + NEAR:
            row[-1] = f"{row[-1]}x"
        elif kind > 1 - MAIL:
            row[len(row) // 2] = f"{row[0]}.{row[1]}@{row[2]}.example"
        yield row


def _row(words: list[str]) -> dict[str, str]:
    cut = max(2, len(words) // 4)
    return {"instruction": " ".join(words[:cut]).capitalize() + ".",
            "output": " ".join(words[cut:]).capitalize() + "."}
