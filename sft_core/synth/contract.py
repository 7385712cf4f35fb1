"""What a generator is asked, and what it says: one contract for weights in this process, vLLM and servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

Messages = list[dict[str, Any]]


class Asked(NamedTuple):
    """One sample. `number` tells it from further ones of the same prompt."""

    messages: Messages
    longest: int  # tokens
    number: int = 0
    tools: str | None = None  # JSON text


class Said(NamedTuple):
    """An answer; `text` is None where there is none, and `why` says why. `stopped`: by itself, not by its length."""

    text: str | None
    stopped: bool = False
    why: str = ""
    tokens: int = 0


class Generator(Protocol):
    """Samples that hang on the seed, the prompt and the number alone, and are made once, ever: what was said before is
    said again from what was kept."""

    @property
    def name(self) -> str:
        """What it is, for provenance."""

    def say(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said]]:
        """(place of the sample, what was said) as soon as it is there, in any order."""
