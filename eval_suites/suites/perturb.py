"""The same question in another form: changes that leave the right answer as it is.

Each variant takes an item and returns it with its last user turn changed, by a generator seeded with variant and item
id: the same for every model and every run. An item that comes back unchanged cannot be asked in that form.

The last paragraph of a turn is taken for the instruction where there is more than one, and lines like "A) Rome" for the
choices of an item of kind `letter`. Numbers, quoted text, code and JSON are never touched; typing errors also spare
names and the words of the right answer and of its rivals.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eval_suites.suites.chat_item import ChatItem

Variant = Callable[[ChatItem], ChatItem]
TYPO_RATE = 0.12
"""Share of the words that may be mistyped that are; at least one."""
SPACE_RATE = 0.25
"""Share of the spaces that are doubled."""
SHORTEST_MISTYPED = 4
FIXED = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”|\{.*\}|<[^<>\n]+>|https?://\S+|^[A-Z]\) [^\n]*$",
                   re.DOTALL | re.MULTILINE)
"""Text whose letters are part of the task."""
CHOICE = re.compile(r"^([A-Z])\) (.*)$", re.MULTILINE)
WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
NAME = re.compile(r"(?<=[A-Za-z0-9,;] )[A-Z][a-z]+")
"""A word with a capital inside a sentence."""
NEIGHBOURS = {near: line[max(at - 1, 0):at] + line[at + 1:at + 2]
              for line in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for at, near in enumerate(line)}
PARAPHRASES = (
    "Could you help me with this?\n\n{text}", "I have a small task for you.\n\n{text}", "{text}\n\nThank you!",
    "Please read the following carefully.\n\n{text}", "Hello! Please do this for me:\n\n{text}",
    "Here is what I would like to know.\n\n{text}\n\nThanks in advance.",
)
DISTRACTORS = (
    "My cousin's bicycle has a squeaky chain.", "The neighbour is painting the fence again.",
    "I am writing this from a quiet library.", "Somebody left a scarf in the hallway.",
    "The radio is playing an old song.", "It smells of fresh bread in here.",
)


def _asked(item: ChatItem) -> str:
    return item.messages[-1]["content"]


def _with(item: ChatItem, text: str) -> ChatItem:
    return item._replace(messages=[*item.messages[:-1], {**item.messages[-1], "content": text}])


def _random(item: ChatItem, variant: str) -> random.Random:
    return random.Random(f"{variant}:{item.item_id}")


def _open(text: str, change: Callable[[str], str]) -> str:
    """The text with the parts outside `FIXED` changed."""
    parts, start = [], 0
    for fixed in FIXED.finditer(text):
        parts += [change(text[start:fixed.start()]), fixed.group()]
        start = fixed.end()
    return "".join([*parts, change(text[start:])])


def _words(expect: Any) -> Iterator[str]:
    """All words in what is expected."""
    if isinstance(expect, str):
        yield from (word.casefold() for word in WORD.findall(expect))
    elif isinstance(expect, Mapping):
        for value in expect.values():
            yield from _words(value)
    elif isinstance(expect, list | tuple):
        for value in expect:
            yield from _words(value)


def typos(item: ChatItem) -> ChatItem:
    """Some words get a neighbouring key, two letters in the wrong order, or a letter less."""
    rng = _random(item, "typos")
    text = _asked(item)
    spared = {*_words(item.expect), *(name.casefold() for name in NAME.findall(text))}
    spans = [fixed.span() for fixed in FIXED.finditer(text)]
    able = [word for word in WORD.finditer(text)
            if len(word.group()) >= SHORTEST_MISTYPED and word.group().casefold() not in spared
            and not any(start < word.end() and word.start() < end for start, end in spans)]
    if not able:
        return item
    for word in sorted(rng.sample(able, max(1, round(TYPO_RATE * len(able)))), key=lambda w: -w.start()):
        text = text[:word.start()] + _mistyped(word.group(), rng) + text[word.end():]
    return _with(item, text)


def _mistyped(word: str, rng: random.Random) -> str:
    """The word with one slip behind its first letter."""
    at = rng.randrange(1, len(word) - 1)
    near = NEIGHBOURS.get(word[at].lower(), "")
    slips = [word[:at] + word[at + 1:]]
    if word[at] != word[at + 1]:
        slips.append(word[:at] + word[at + 1] + word[at] + word[at + 2:])
    slips += [word[:at] + key + word[at + 1:] for key in near]
    return rng.choice(slips)


def lower(item: ChatItem) -> ChatItem:
    """No capitals."""
    return _with(item, _open(_asked(item), str.lower))


def upper(item: ChatItem) -> ChatItem:
    """Capitals only."""
    return _with(item, _open(_asked(item), str.upper))


def whitespace(item: ChatItem) -> ChatItem:
    """Doubled spaces, spaces at the ends, more empty lines."""
    rng = _random(item, "whitespace")
    text = _open(_asked(item), lambda part: re.sub(
        r"(?<=\S) (?=\S)", lambda found: "  " if rng.random() < SPACE_RATE else found.group(), part))
    return _with(item, "\n" + text.replace("\n\n", " \n\n\n") + "  \n")


def paraphrase(item: ChatItem) -> ChatItem:
    """Other words around the question, as people write them."""
    return _with(item, _random(item, "paraphrase").choice(PARAPHRASES).replace("{text}", _asked(item)))


def instruction_first(item: ChatItem) -> ChatItem:
    """The instruction, which is the last paragraph, in front of the rest."""
    *content, instruction = _asked(item).split("\n\n")
    return _with(item, "\n\n".join([instruction, *content])) if content else item


def distractor(item: ChatItem) -> ChatItem:
    """A sentence that has nothing to do with the question, in front of it: none of its words begins like one there."""
    near = {word[:4] for word in _words([_asked(item), item.expect])}
    able = [one for one in DISTRACTORS if not near & {word[:4] for word in _words(one) if len(word) > 3}]
    return _with(item, f"{_random(item, 'distractor').choice(able)} {_asked(item)}") if able else item


def option_order(item: ChatItem) -> ChatItem:
    """The choices turned by some places, so that the right one always gets another letter."""
    text = _asked(item)
    choices = CHOICE.findall(text)
    letters, options = [letter for letter, _ in choices], [option for _, option in choices]
    if item.kind != "letter" or len(choices) < 2 or item.expect["letter"] not in letters:
        return item
    by = _random(item, "option_order").randrange(1, len(choices))
    turned = options[by:] + options[:by]
    place = iter(turned)
    text = CHOICE.sub(lambda found: f"{found.group(1)}) {next(place)}", text)
    letter = letters[(letters.index(item.expect["letter"]) - by) % len(letters)]
    changed = _with(item, text)._replace(expect={**item.expect, "letter": letter, "options": turned})
    return changed._replace(reference=letter) if item.reference is not None else changed


VARIANTS: Mapping[str, Variant] = {
    one.__name__: one
    for one in (typos, lower, upper, whitespace, paraphrase, instruction_first, distractor, option_order)
}
