"""What is wrong with the answers of a conversation: facts that are measured once, and flaws that thresholds make of
them.

Found in 16,547 rows of Alpaca, 2,996 of Dolly, which people wrote, and 1,799 of GPT-4 and Glaive, and right when looked
at: 26 of 26 placeholders, 54 of 56 refusals, 8 of 11 answers of models cut off and 0 of 7 of people (who leave out the
last full stop), 1 of 1 repetition, 1 of 2 echoes, 0 of 1 language.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ftfy
from ftfy.badness import badness, is_bad

from sft_core.config.quality import Flaw, QualitySection
from sft_core.conversation import Conversation
from sft_core.data.curate.boilerplate import is_placeholder, is_refusal
from sft_core.data.curate.ending import is_truncated
from sft_core.data.curate.language import UNDETERMINED, Languages
from sft_core.data.curate.repetition import echoed, pieces, repeated_lines, repeated_words
from sft_core.data.curate.words import answer_of
from sft_core.stopping import check

FULL_WORDS = 200
"""Words of an answer from which length adds nothing to the score."""
LEAST_ASCII = 40
"""Letters of ASCII that tell a language well enough to hold it against an answer: the model is sure that "Why do babies
cry so much?" is Spanish."""
SURELY_GARBLED = 3
"""Garbled places that no repair can explain; fewer may be phonetic script."""
_LOST = re.compile(r"[a-z]\?(?:t|s|re|ve|ll|d|m)\b")
"""An apostrophe that an encoding without it made a question mark: don?t."""
_PHONETIC = re.compile("[\u0250-\u02ff]")
_ABOUT_LANGUAGE = re.compile(
    r"translat|interpret|\blanguages?\b|langue|lengua|idioma|lingua|sprache|übersetz|tradu|vertaal|tłumacz|перев|язык"
    r"|翻[译譯訳]|[语語]|번역|언어|ترجم|لغة|अनुवाद|भाषा|çevir|dịch"
    r"|\b(?:english|french|german|spanish|italian|portuguese|dutch|russian|chinese|mandarin|cantonese|japanese|korean"
    r"|arabic|hindi|turkish|polish|swedish|danish|norwegian|finnish|czech|greek|hebrew|hungarian|romanian|ukrainian"
    r"|vietnamese|thai|indonesian|malay|persian|farsi|urdu|bengali|tamil|swahili|latin|catalan|bulgarian|serbian"
    r"|croatian|slovak|tagalog|filipino|esperanto|irish|welsh|deutsch\w*|englisch\w*|français\w*|anglais\w*|español"
    r"|inglés|italiano|inglese|português|inglês|nederlands|engels|polski\w*|angielsk\w*|английск\w*|русск\w*)\b", re.I)


class Quality(NamedTuple):
    """Facts of one conversation, over the answers that are trained."""

    answers: int
    prompt_words: int  # of all turns of the user, each text once
    answer_words: int  # of all answers
    prompt_characters: int
    answer_characters: int
    repeated_words: float  # of the most repetitive answer, 0 to 1
    repeated_lines: float
    echo: float  # of the answer that repeats most of its question, 0 to 1
    placeholders: int  # answers that stand for one
    refusals: int  # answers that decline in a stock phrase
    truncated: int  # answers that stop before their end
    damage: int  # lost or garbled characters of the whole conversation
    other_language: float  # how sure it is that question and answers differ in language without reason, 0 to 1


class Found(NamedTuple):
    """One flaw, and what a person reads of it."""

    flaw: Flaw
    detail: str


def facts(conversations: Sequence[Conversation], languages: Sequence[Languages]) -> list[Quality]:
    """Measure each conversation, in order; `languages` are theirs, as `language.facts` has them."""
    found = []
    for conversation, language in zip(conversations, languages, strict=True):
        check()
        found.append(_measured(conversation, language))
    return found


def flaws(quality: Quality, section: QualitySection) -> tuple[Found, ...]:
    """Every flaw of a row by these thresholds, dropped or not."""
    return tuple(Found(flaw, detail) for flaw, detail in _details(quality, section) if detail)


def fault(quality: Quality, section: QualitySection) -> Found | None:
    """The first flaw for which the row is left out, None where it stays."""
    return next((found for found in flaws(quality, section) if found.flaw in section.drop), None)


def score(quality: Quality, section: QualitySection) -> float:
    """A row's place in a ranking, 0 to 1: how full its answers are (the logarithm of their mean words, 1 from 200 on),
    less what is repeated, halved by every flaw.

    Length is the baseline that is hard to beat (Zhao et al. 2024, arXiv:2402.04833), and no measure of truth: rankings
    by it agree with one rating of Alpaca's rows (AUC 0.65, ChatGPT's helpfulness) and contradict another (0.38, that of
    Claude).
    """
    mean = quality.answer_words / max(quality.answers, 1)
    full = min(math.log1p(mean) / math.log1p(FULL_WORDS), 1.0)
    return full * (1 - quality.repeated_words) * 0.5 ** len(flaws(quality, section))


def _details(quality: Quality, section: QualitySection) -> Iterator[tuple[Flaw, str]]:
    """What to say of each flaw; nothing where it is none."""

    def when(flawed: bool, detail: str) -> str:
        return detail if flawed else ""

    many, most = quality.answer_words, section.most_words
    yield "length", when(many < section.least_words or most is not None and many > most, f"{many} words of answers")
    yield "placeholder", when(quality.placeholders > 0, "an answer only stands for one")
    yield "repetition", when(
        quality.repeated_words >= section.repeated_words > 0 or quality.repeated_lines >= section.repeated_lines > 0,
        f"an answer says {quality.repeated_words:.0%} of its words and {quality.repeated_lines:.0%} of its lines again")
    yield "refusal", when(quality.refusals > 0, "an answer declines in a stock phrase")
    yield "truncated", when(quality.truncated > 0, "an answer stops before its end")
    yield "damage", when(quality.damage >= section.damage, f"{quality.damage} characters are lost or garbled")
    yield "echo", when(quality.echo >= section.echo > 0, f"an answer begins with {quality.echo:.0%} of its question")
    yield "language", when(quality.other_language >= section.language_confidence > 0,
                           "the answers are in another language than the question")


def _measured(conversation: Conversation, languages: Languages) -> Quality:
    pairs = list(_pairs(conversation))
    answers = [answer for _, answer in pairs]
    said = [pieces(answer) for answer in answers]
    asked = {turn.content: pieces(turn.content) for turn in conversation.turns if turn.role == "user"}
    return Quality(
        answers=len(pairs),
        prompt_words=sum(map(len, asked.values())),
        answer_words=sum(map(len, said)),
        prompt_characters=sum(map(len, asked)),
        answer_characters=sum(map(len, answers)),
        repeated_words=max(map(repeated_words, answers, said), default=0.0),
        repeated_lines=max(map(repeated_lines, answers), default=0.0),
        echo=max((echoed(asked.get(question, []), found) for (question, _), found in zip(pairs, said, strict=True)),
                 default=0.0),
        placeholders=sum(map(is_placeholder, answers)),
        refusals=sum(map(is_refusal, answers)),
        truncated=sum(map(is_truncated, answers)),
        damage=sum(_damage(turn.content) for turn in conversation.turns),
        other_language=_other_language(conversation, languages),
    )


def _pairs(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Each trained answer, without its thoughts, behind the question that it answers; calls alone are no answer."""
    question = ""
    for turn in conversation.turns:
        if turn.role == "user":
            question = turn.content
        elif turn.role == "assistant" and not turn.masked:
            answer = answer_of(turn)
            if answer or not turn.tool_calls:
                yield question, answer


def _damage(text: str) -> int:
    lost = len(_LOST.findall(text)) if "?" in text else 0
    if text.isascii():
        return lost
    garbled = badness(text) if is_bad(text) else 0
    if garbled < SURELY_GARBLED and garbled and ftfy.fix_encoding(text) == text:
        garbled = 0
    return lost + text.count("\ufffd") + garbled


def _other_language(conversation: Conversation, languages: Languages) -> float:
    if languages.prompt == languages.answer or UNDETERMINED in (languages.prompt, languages.answer):
        return 0.0
    for role in ("user", "assistant"):
        said = " ".join(turn.content for turn in conversation.turns if turn.role == role)
        if said.isascii() and len(said) < LEAST_ASCII or not said.isascii() and _PHONETIC.search(said):
            return 0.0
    asked = (turn.content for turn in conversation.turns if turn.role in ("system", "user"))
    if any(map(_ABOUT_LANGUAGE.search, asked)):
        return 0.0
    return min(languages.prompt_confidence, languages.answer_confidence)
