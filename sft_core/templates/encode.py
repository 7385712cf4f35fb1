"""Texts that go on behind others → token ids, many at once.

A trained turn and its context are encoded apart, so that training sees the border that inference sees. What follows a
text must not get the space that SentencePiece-like tokenizers put before a beginning, and what follows a control token
is as that token leaves it (some swallow white space). Both come from encoding with an anchor in front and taking the
anchor's ids away again; nothing is ever decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.templates.template import MARK_END, MARK_START

_ANCHORS = ("\n", ".", "x")  # tried in this order: one that does not merge with the text
_REMEMBERED_CHARACTERS = 64


def any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Finds the first of these texts; of two that begin together the one named first."""
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def mark(text: str, look_alikes: re.Pattern[str]) -> str:
    """The text with marks around what looks like a control token; `Encoder.pieces` encodes that as plain text."""
    return look_alikes.sub(f"{MARK_START}\\g<0>{MARK_END}", text)


class Piece(NamedTuple):
    """A text and what stands before it; only the end of `before` matters."""

    before: str
    text: str


class Encoder:
    """One tokenizer. Two threads may use it: the tokenizer works for one at a time. Short pieces are remembered."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: tuple[str, ...]) -> None:
        """`control`: texts that are control tokens, longest first."""
        self._tokenizer, self._control = tokenizer, control
        self._endings = frozenset(token[-1] for token in control)
        self._marked = re.compile(f"{MARK_START}({any_of(control).pattern}){MARK_END}")
        self._remembered: dict[str, list[int]] = {}
        self._working = Lock()
        head = self.text("\n")
        self._prefixes = self.text("\nx")[len(head):] != self.text("x")

    def text(self, text: str) -> list[int]:
        """Ids of a text that begins here."""
        return self._batch([text])[0]

    def pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Ids of each piece, as it goes on behind what stands before it."""
        parts = [self._plain(piece) if MARK_START in piece.text else [piece] for piece in pieces]
        ids = iter(self._continue([part for found in parts for part in found]))
        return [next(ids) if len(found) == 1 else [token for _ in found for token in next(ids)] for found in parts]

    def _plain(self, piece: Piece) -> list[Piece]:
        """The piece cut so that every marked look-alike falls into two harmless halves."""
        made = []
        before = piece.before
        for at, text in enumerate(self._marked.split(piece.text)):
            for part in (text[:1], text[1:]) if at % 2 else (text,):
                if part:
                    made.append(Piece(before, part))
                    before = part
        return made

    def _continue(self, pieces: Sequence[Piece]) -> list[list[int]]:
        anchors = [self._anchor(piece.before) for piece in pieces]
        queries = [anchor + piece.text for anchor, piece in zip(anchors, pieces, strict=True)]
        found = []
        for anchor, query, ids in zip(anchors, queries, self._all(queries), strict=True):
            head = self._all([anchor])[0] if anchor else []
            found.append(ids[len(head):] if ids[: len(head)] == head else self._behind_another(query[len(anchor):]))
        return found

    def _anchor(self, before: str) -> str:
        """What to put in front of a text that goes on behind `before`: its last control token, or a plain character."""
        if before[-1:] in self._endings:
            for token in self._control:
                if before.endswith(token):
                    return token
        return _ANCHORS[0] if before and self._prefixes else ""

    def _behind_another(self, text: str) -> list[int]:
        """Ids of a text that merges with its anchor, behind an anchor with which it does not."""
        for anchor in _ANCHORS if self._prefixes else ():
            head, whole = self.text(anchor), self.text(anchor + text)
            if whole[: len(head)] == head:
                return whole[len(head):]
        return self.text(text)

    def _all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts; each different one is encoded once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        made = dict(zip(missing, self._batch(missing), strict=True)) if missing else {}
        ids = [self._remembered[text] if text in self._remembered else made[text] for text in texts]
        self._remembered.update((text, made[text]) for text in missing if len(text) <= _REMEMBERED_CHARACTERS)
        return ids

    def _batch(self, texts: list[str]) -> list[list[int]]:
        """As `tokenizer(texts, add_special_tokens=False)`, without the objects that it makes of every text."""
        if not self._tokenizer.is_fast:
            return [list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False)) for text in texts]
        backend = self._tokenizer.backend_tokenizer
        with self._working:
            backend.no_truncation()  # a tokenizer.json may hold both, and other calls leave their settings behind
            backend.no_padding()
            backend.encode_special_tokens = False
            return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
