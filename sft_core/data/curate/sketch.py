"""What duplicates are found by, of many conversations at once: a key of the whole text, hashed shingles, a sketch.

Words are hashed once each and combined to shingles for all rows together in numpy; rensa sketches the flat array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rensa import RMinHash

from sft_core.config.duplicates import Compared
from sft_core.conversation import Conversation
from sft_core.data.curate.words import texts, words
from sft_core.stopping import check

PERMUTATIONS = 128
SEED = 1
KEY_BYTES = 16
_AT_ONCE = 2_000
"""Rows whose words are held at the same time."""
_ODD = 0x9E3779B97F4A7C15


class Sketches(NamedTuple):
    """Of n conversations, in their order."""

    keys: NDArray[np.bytes_]  # [n], 16 bytes: equal for equal conversations, case and white space folded
    letters: NDArray[np.int64]  # [n], characters of all texts
    signatures: NDArray[np.uint32]  # [n, PERMUTATIONS]
    shingles: NDArray[np.uint64]  # of all rows, one behind the other; a row may hold one twice
    ends: NDArray[np.int64]  # [n + 1], where the shingles of row i begin and those of row i - 1 end

    def of(self, row: int) -> NDArray[np.uint64]:
        """The set of a row's shingles, sorted."""
        return np.unique(self.shingles[self.ends[row]:self.ends[row + 1]])

    def empty(self) -> NDArray[np.bool_]:
        """[n], rows without a word."""
        return np.asarray(self.ends[1:] == self.ends[:-1])


def sketch(conversations: Sequence[Conversation], shingle_words: int, compared: Compared = "conversations"
           ) -> Sketches:
    """Sketch conversations, or their prompts alone.

    Args:
        shingle_words: words of a shingle. A text with fewer is one shingle, one of signs only has none.
        compared: what stands for a conversation: all its texts but system turns, or what comes in front of its first
            answer. Keys are of all of it.
    """
    said = _PARTS[compared]
    keys = np.array([_key(one, compared) for one in conversations], dtype=f"V{KEY_BYTES}")
    letters = np.array([sum(map(len, texts(one))) for one in conversations], dtype=np.int64)
    parts = [_shingles([[word for text in said(one) for word in words(text)]
                        for one in conversations[at:at + _AT_ONCE]], shingle_words)
             for at in range(0, len(conversations), _AT_ONCE)]
    counts = np.concatenate([counts for _, counts in parts]) if parts else np.zeros(0, np.int64)
    flat = np.concatenate([flat for flat, _ in parts]) if parts else np.zeros(0, np.uint64)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Sketches(keys, letters, _signatures(flat, ends), flat, ends)


def write_sketches(path: Path, sketches: Sketches) -> None:
    """An Arrow file that is read without being loaded."""
    table = pa.table({
        "key": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(KEY_BYTES), len(sketches.keys), [None, pa.py_buffer(np.ascontiguousarray(sketches.keys))]),
        "letters": pa.array(sketches.letters),
        "signature": pa.FixedSizeListArray.from_arrays(pa.array(sketches.signatures.ravel()), PERMUTATIONS),
        "shingles": pa.LargeListArray.from_arrays(pa.array(sketches.ends), pa.array(sketches.shingles))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_sketches(path: Path) -> Sketches:
    """As `write_sketches` left them, mapped into memory: what is not looked at takes none."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    if not table.num_rows:
        return sketch([], 1)
    keys, letters, signature, shingles = (table.column(name).chunk(0) for name in table.column_names)
    return Sketches(np.frombuffer(keys.buffers()[1], dtype=f"V{KEY_BYTES}", count=len(keys)),
                    letters.to_numpy(), signature.values.to_numpy().reshape(-1, PERMUTATIONS),
                    shingles.values.to_numpy(), shingles.offsets.to_numpy())


def _prompt(conversation: Conversation) -> list[str]:
    """What stands in front of the first answer."""
    turns = conversation.turns
    asked = next((at for at, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return texts(conversation._replace(turns=turns[:asked]))


def _said(part: Callable[[Conversation], list[str]], conversation: Conversation) -> list[str]:
    """Without system turns: a long one that rows share would make all of them alike, whatever is asked."""
    return part(conversation._replace(turns=tuple(turn for turn in conversation.turns if turn.role != "system")))


_PARTS: dict[Compared, Callable[[Conversation], list[str]]] = {
    "conversations": partial(_said, texts), "prompts": partial(_said, _prompt)}


def _key(conversation: Conversation, compared: Compared) -> bytes:
    folded = [" ".join(text.casefold().split()) for text in _prompt(conversation)] if compared == "prompts" \
        else _folded(conversation)
    text = "\0".join(folded).encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def _folded(conversation: Conversation) -> list[str]:
    """Roles, texts, calls, tools, and which answers are trained."""

    def fold(text: str) -> str:
        return " ".join(text.casefold().split())

    parts = [fold(conversation.tools or ""), conversation.variables or ""]
    for turn in conversation.turns:
        parts += [turn.role, str(turn.masked), str(len(turn.tool_calls)), fold(turn.content),
                  *(fold(f"{call.name} {call.arguments}") for call in turn.tool_calls)]
    return parts


def _shingles(rows: Sequence[Sequence[str]], length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all shingles of some rows, and how many each has."""
    check()
    known = dict.fromkeys(chain.from_iterable(rows), 0)
    for word in known:
        digest = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest()
        known[word] = int.from_bytes(digest, "little")
    words_of = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.fromiter(map(known.__getitem__, chain.from_iterable(rows)), np.uint64, int(words_of.sum()))
    starts = np.cumsum(words_of) - words_of
    counts = np.where(words_of >= length, words_of - length + 1, np.minimum(words_of, 1))
    row = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[row] + within
    found = np.zeros(len(row), np.uint64)
    for at in range(length):  # a shorter row lacks its last words
        there = at < words_of[row]
        found[there] = _mixed(found[there] + flat[first[there] + at] + np.uint64((at + 1) * _ODD % 2**64))
    return found, counts


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each 64-bit value under a bijection that spreads every bit (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def _signatures(flat: NDArray[np.uint64], ends: NDArray[np.int64]) -> NDArray[np.uint32]:
    """MinHash signatures; of a row without shingles they say nothing."""
    rows = len(ends) - 1
    found = np.empty((rows, PERMUTATIONS), np.uint32)
    for at in range(0, rows, _AT_ONCE):
        check()
        part = ends[at:at + _AT_ONCE + 1]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat[part[0]:part[-1]], (part - part[0]).astype(np.uint64), PERMUTATIONS, SEED)
        found[at:at + _AT_ONCE] = np.array(matrix.to_rows(), np.uint32)
    return found
