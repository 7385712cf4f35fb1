"""Why an instruction, or an instance of one, does not come into the pool; '' where it may. Heuristics of Wang et al.
2022 (`post_process_gpt3_response`, `filter_invalid_instances`), and some for generators that go round in circles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from sft_core.synth.seeds import Instance

REPEATS_FROM, LEAST_DISTINCT = 20, 0.4
"""Word triples from which on, and share of different ones below which, an output goes round in circles."""
_WORD = re.compile(r"\w+")


def fault_of_instruction(text: str, least: int, most: int, forbidden: re.Pattern[str] | None) -> str:
    """`forbidden` finds words of tasks that a language model cannot do, see `any_of`."""
    words = text.split()
    if len(words) < least:
        return "too_short"
    if len(words) > most:
        return "too_long"
    if unicodedata.category(text[0])[0] in "PSZ":
        return "begins_with_punctuation"
    if repeats(text):
        return "repeats_itself"
    return "forbidden_word" if forbidden and forbidden.search(text) else ""


def any_of(words: Sequence[str]) -> re.Pattern[str] | None:
    """Finds one of these, as whole words in any case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE) if words else None


def fault_of_instance(one: Instance) -> str:
    """Of an instance by itself."""
    if not one.output.strip():
        return "no_output"
    if one.input.strip() == one.output.strip():
        return "output_is_input"
    if one.output.rstrip().endswith(":") or one.input.rstrip().endswith(":"):
        return "unfinished"
    return "repeats_itself" if repeats(one.output) else ""


def repeats(text: str) -> bool:
    """The text goes round in circles."""
    found = triples(text)
    return len(found) >= REPEATS_FROM and len(set(found)) < LEAST_DISTINCT * len(found)


def triples(text: str) -> list[tuple[str, ...]]:
    """All runs of three words, case folded; fewer words are one run."""
    words = _WORD.findall(text.casefold())
    return list(zip(words, words[1:], words[2:], strict=False)) or ([tuple(words)] if words else [])
