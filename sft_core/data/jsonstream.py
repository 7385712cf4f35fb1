"""The elements of a JSON array, one at a time: memory holds an element and a block, not the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 20
MOST = 128 * BLOCK
"""Bytes of the longest row that is read; a longer one is a broken or a hostile file."""
_SPACE = re.compile(r"[ \t\n\r]*")
_BEHIND = frozenset(",:]} \t\n\r")
_DECODER = json.JSONDecoder()


def elements(stream: IO[bytes], wrapped: bool = False) -> Iterator[Any]:
    """The elements of an array that is all that a stream holds; `wrapped`: as the one value of an object.

    Raises:
        ValueError: it is something else, is cut off, or an element is no JSON or longer than `MOST`; those before it
            have come.
    """
    text = _Text(stream)
    if wrapped:
        text.skip("{")
        text.value()
        text.skip(":")
    yield from _array(text)
    if wrapped:
        text.skip("}")
    text.end()


def _array(text: _Text) -> Iterator[Any]:
    text.skip("[")
    if text.next_sign() != "]":
        yield text.value()
        while text.next_sign() == ",":
            text.skip(",")
            yield text.value()
    text.skip("]")


class _Text:
    """What was read of a stream and not used yet."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._held, self._at = "", 0
        self._lines, self._column = 1, 0  # where what is held begins: lines counted from 1, characters of its line
        self._ended = False

    def next_sign(self) -> str:
        """The next character that is no white space, which stays; empty at the end."""
        while True:
            found = _SPACE.match(self._held, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def skip(self, sign: str) -> None:
        """Go behind this sign, which must come next."""
        if (found := self.next_sign()) != sign:
            raise ValueError(f"expected {sign!r} and found {found!r} ({self._where(self._at)})" if found else
                             f"it is cut off: expected {sign!r} at its end")
        self._at += 1

    def value(self) -> Any:
        """The value that comes next, whatever it is."""
        self.next_sign()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
                # `1` may go on as `1.5` in the next block
                whole = self._held[end:end + 1] in _BEHIND or self._ended or len(self._held) - self._at > MOST
            except ValueError as error:
                if self._ended or len(self._held) - self._at > MOST:
                    raise ValueError(f"{error.msg}: {self._where(error.pos)}" if isinstance(
                        error, json.JSONDecodeError) else str(error)) from None
                whole = False
            if whole:
                self._at = end
                return value
            self._more()

    def end(self) -> None:
        """Nothing may follow."""
        if found := self.next_sign():
            raise ValueError(f"more follows: {found!r} ({self._where(self._at)})")

    def _where(self, at: int) -> str:
        return f"line {self._lines + self._held.count(chr(10), 0, at)} column {self._column_of(at) + 1}"

    def _column_of(self, at: int) -> int:
        """Characters of the line in front of a held one."""
        begin = self._held.rfind("\n", 0, at)
        return self._column + at if begin < 0 else at - begin - 1

    def _more(self) -> bool:
        """Read a block more, or as much as is held; False at the end."""
        held = self._held[self._at:]
        block = self._stream.read(max(BLOCK, len(held)))
        self._lines, self._column = self._lines + self._held.count("\n", 0, self._at), self._column_of(self._at)
        self._held, self._at = held + self._decode(block, final=not block), 0
        self._ended = not block
        return not self._ended
