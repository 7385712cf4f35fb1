"""Ways to change an evaluation item, as those who copy one do, to see whether it is still found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

from sft_core.data.curate.decontaminate import GRAM_WORDS
from sft_core.data.curate.features import ENGLISH, FUNCTION_WORDS
from sft_core.data.curate.items import EvalItem
from sft_core.data.curate.words import words

_NUMBER = re.compile(r"\d+")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+\b|^[A-Z][a-z]+\b")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*(?=\S)")
_WORD = re.compile(r"[A-Za-z]+")
_NAMES = ("Anna", "Bert", "Carla", "Dmitri", "Elif", "Farid", "Gina", "Hugo")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPOS = 0.05
"""Share of letters that become another one."""
_OTHER: Mapping[str, str] = ENGLISH["other_words"]
"""Everyday words and what may stand for them."""


def _numbers(item: EvalItem, rng: Random, _: Sequence[str]) -> str:
    return _NUMBER.sub(lambda _: str(rng.randint(2, 99)), item.text)


def _names(item: EvalItem, rng: Random, context: Sequence[str]) -> str:
    others = {name: rng.choice(_NAMES) for name in dict.fromkeys(_NAME.findall(item.text))
              if name.lower() not in FUNCTION_WORDS}
    return _WORD.sub(lambda word: others.get(word.group(), word.group()), _numbers(item, rng, context))


def _typos(item: EvalItem, rng: Random, _: Sequence[str]) -> str:
    return "".join(rng.choice(_LETTERS) if sign.isalpha() and rng.random() < TYPOS else sign for sign in item.text)


def _left_out(item: EvalItem, _: Random, __: Sequence[str]) -> str:
    return " ".join(word for at, word in enumerate(item.text.split()) if at % 8 != 7)


def _half(item: EvalItem, _: Random, __: Sequence[str]) -> str:
    found = item.text.split()
    return " ".join(found[: len(found) // 2])


def _paraphrase(item: EvalItem, _: Random, __: Sequence[str]) -> str:
    """Other words where there are some, and the last sentence first."""
    sentences = _SENTENCE.split(item.text)
    turned = " ".join(sentences[-1:] + sentences[:-1])
    return _WORD.sub(lambda word: _OTHER.get(word.group().lower(), word.group()), turned)


def _in_chat(item: EvalItem, rng: Random, context: Sequence[str]) -> str:
    """Between two texts of the data before and two behind."""
    around = [rng.choice(context) for _ in range(4)] if context else []
    return "\n".join([*around[:2], item.text, *around[2:]])


def _reordered(item: EvalItem, rng: Random, _: Sequence[str]) -> str | None:
    if not item.choices:
        return None
    options = rng.sample(item.choices, len(item.choices))
    return "\n".join([item.text, *(f"{at}) {option}" for at, option in enumerate(options, 1))])


def _answer(item: EvalItem, _: Random, __: Sequence[str]) -> str | None:
    """The longest, where it is long enough to tell whose answer it is."""
    return max((one for one in item.answers if len(words(one)) >= GRAM_WORDS), key=len, default=None)


CHANGES: Mapping[str, Callable[[EvalItem, Random, Sequence[str]], str | None]] = {
    "as it is": lambda item, _, __: item.text,
    "other numbers": _numbers,
    "other names and numbers": _names,
    "5 % of the letters wrong": _typos,
    "every eighth word left out": _left_out,
    "first half": _half,
    "other words, sentences turned": _paraphrase,
    "inside a long chat": _in_chat,
    "options in another order": _reordered,
    "answer alone": _answer,
}
"""Name → the changed text of an item, given a random generator and texts of the data; None where it cannot be made."""
