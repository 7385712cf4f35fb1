"""One contract for chat templates of many families: what is trained is what the template writes behind the very prompt
of inference, or the row is refused for a reason that docs/TEMPLATES.md tells.

`python -m tests.core.test_families` prints the table of that file. Families are those that trl carries, the built-in
ones, and the shapes in `families/`. What is expected is read off complete renderings, by nothing of ours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn, Why
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Example, Rendered, Renderer
from tests.core.families.chats import CHATS, CLOCK, SKY, TOOLS, WITH_TOOLS, says, thinks, user
from tests.core.families.oracle import BEGUN, Expected, Oracle, cut, lost_in
from tests.core.families.shapes import FAMILIES, jinja_of, tokenizer_of

TABLE = Path(__file__).parents[2] / "docs" / "TEMPLATES.md"
ORIGIN = Origin("s", "f.jsonl", 1)
REASONS = {
    r"drops or rewrites the (call|tool)": "tools are not written",
    r"drops or rewrites the text": "text beside a call is not written",
    r"drops or rewrites the thought": "the thought is not written",
    r"drops or rewrites turn \d+ \(system\)": "the system text is not written",
    r"has closed its thought": "the prompt has closed the thought",
    r"opens an answer otherwise": "it asks otherwise than it writes",
    r"refuses these turns: ": "it raises",
}
"""Of rows that are refused, as docs/TEMPLATES.md tells them."""


def case_of(name: str, keywords: dict[str, Any], **more: Any) -> tuple[Renderer, Oracle]:
    tokenizer, family = tokenizer_of(name), FAMILIES[name]
    source = {"name": name.removeprefix("built-in ")} if family.source == "built-in" else {"name": "model"}
    section = TemplateSection.model_validate(source | {"kwargs": keywords, "stop": list(family.stop)} | more)
    template = choose(section, tokenizer)
    given = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    bare = (template.stops[0], template.stops[-1]) if template.bare else None
    oracle = Oracle(jinja_of(name) or template.jinja, given | keywords | {
        "strftime_now": section.date.strftime}, template.stops, bare, family.ids)
    return Renderer(template, tokenizer, section), oracle


def as_bytes(example: Example, name: str) -> tuple[bytes, list[bool]]:
    """The text of an example, and for each byte whether it is trained."""
    text, trained = b"", list[bool]()
    for token, target in zip(example.input_ids, [IGNORE, *example.targets[:-1]], strict=True):
        piece = bytes([token]) if token < 256 else tokenizer_of(name).decode([token]).encode()
        text += piece
        trained += [target != IGNORE] * len(piece)
    return text, trained


def said_of(oracle: Oracle, turns: Sequence[Turn], expected: Expected, rest: str) -> str:
    """What must be trained behind the prompt: what is written there, or all that the turn says, in its order."""
    turn = turns[-1]
    if expected.behind is not None:
        said = oracle.said(expected.behind)
        assert said is not None, f"{expected.behind!r} has no stop"
        assert rest.startswith(said), f"{rest!r} is not {said!r}"
        return said
    said = oracle.said(rest)
    assert said is not None, f"{rest!r} has no stop"
    assert lost_in(turn, said) is None, said
    thought, answer = cut(turn.content)
    if thought:
        spoken = "\0".join([answer, *(text for call in turn.tool_calls for text in call)])
        assert said.count(thought) - spoken.count(thought) == 1, said
        assert said.find(thought) <= said.find(answer.strip() or turn.tool_calls[0].name), said
    others = [one.content.strip() for one in turns[:-1] if len(one.content.strip()) > 4]
    assert not any(one in said and one not in turn.content for one in others), f"{said!r} has words of other turns"
    begun = BEGUN.search(expected.prompt)
    assert said.count("<think>") <= (0 if begun else 1), said
    assert not begun or "think" not in begun[1] or said.count("</think>") == 1, said
    return said


def check(name: str, oracle: Oracle, conversation: Conversation, examples: tuple[Example, ...]) -> None:
    """Every answer stands behind its prompt, all of it is trained, and nothing else is."""
    texts = [as_bytes(example, name) for example in examples]
    trained = 0
    for at, turn in enumerate(conversation.turns):
        if turn.role != "assistant":
            continue
        expected = oracle.answer(conversation.turns, at, conversation.tools)
        assert expected.lost is None, f"trained, and {expected.lost} is lost"
        start = len(prompt := expected.prompt.encode())
        found = [(text, mask) for text, mask in texts if text.startswith(prompt) and mask[start: start + 1] == [True]]
        assert found, f"turn {at + 1} is nowhere trained behind {expected.prompt[-99:]!r}"
        text, mask = found[0]
        said = said_of(oracle, conversation.turns[: at + 1], expected, text[start:].decode()).encode()
        assert all(mask[start: start + len(said)]), said
        trained += len(said)
    assert sum(sum(mask) for _, mask in texts) == trained


def reason(rejected: Rejected) -> str:
    assert rejected.why is Why.TEMPLATE_REFUSED, rejected
    found = [said for pattern, said in REASONS.items() if re.search(pattern, rejected.detail)]
    assert found, rejected.detail
    assert re.search(r"; set template\.(name|kwargs|thinking)", rejected.detail), "what to do is told"
    return found[0]


def check_remedy(name: str, keywords: dict[str, Any], conversation: Conversation, told: str) -> None:
    """What is told to open a closed thought does so for this very conversation, and what drops it."""
    setting = re.search(r"set template\.kwargs: ({.+?})", told)
    dropping, _ = case_of(name, keywords, thinking="drop")
    assert isinstance(dropping.render(conversation), Rendered) == ("set template.thinking: drop" in told), told
    if setting is None:
        tried = "with template.(kwargs: {.+}|thinking: drop too) the chat template drops"
        assert re.search(f"row itself says /no_think|; {tried}", told), told
        return
    renderer, oracle = case_of(name, keywords | json.loads(setting[1]))
    found = renderer.render(conversation)
    assert isinstance(found, Rendered), found
    check(name, oracle, conversation, found.examples)


def row_of(name: str, keywords: dict[str, Any]) -> str:
    """A line of the table, once every conversation is exact or refused."""
    renderer, oracle = case_of(name, keywords)
    refused: Counter[str] = Counter()
    for chat, turns in CHATS.items():
        conversation = Conversation(turns, ORIGIN, TOOLS if chat in WITH_TOOLS else None)
        found = renderer.render(conversation)
        if isinstance(found, Rendered):
            check(name, oracle, conversation, found.examples)
        else:
            refused[reason(found)] += 1
            if "closed" in found.detail:
                check_remedy(name, keywords, conversation, found.detail)
    given = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in keywords.items())
    told = " · ".join(f"{count} {said}" for said, count in sorted(refused.items()))
    stop = "`stop: [" + ", ".join(FAMILIES[name].stop).replace("|", "\\|") + "]`" if FAMILIES[name].stop else ""
    settings = ", ".join(filter(None, (given, stop)))
    label = f"trl {name}" if FAMILIES[name].source == "trl" else name
    return f"| {label} | {settings} | {len(CHATS) - refused.total()} | {told} |"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_exact_or_refused_as_the_table_says(name: str) -> None:
    rows = [row_of(name, keywords) for keywords in FAMILIES[name].keywords]
    assert [row for row in rows if row not in TABLE.read_text(encoding="utf-8").splitlines()] == []


SHORT = ("hi", "a", "1", "no", "/", "<", "in", "think", "user", "assistant", "system")
"""Words that stand in the markup of templates too."""


def saying(words: str) -> list[Conversation]:
    """Conversations of nothing but these words."""
    said, asked, result = says(words), user(words), Turn("tool", words)
    return [Conversation((asked, said, asked, said), ORIGIN),
            Conversation((asked, thinks(words, "Aa"), asked, thinks(words, words)), ORIGIN),
            Conversation((asked, says("", SKY, CLOCK), result, result, said), ORIGIN, TOOLS),
            Conversation((asked, thinks(words, "", SKY), result, thinks(words, words, SKY)), ORIGIN, TOOLS)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_short_words_are_trained_as_long_ones(name: str) -> None:
    for renderer in (case_of(name, keywords)[0] for keywords in FAMILIES[name].keywords):
        for at, long in enumerate(map(renderer.render, saying("Unmistakable"))):
            for words in SHORT if isinstance(long, Rendered) else ():  # the table says why
                found = renderer.render(saying(words)[at])
                assert isinstance(found, Rendered), (words, at, found)
                assert [spans_of(one, name) for one in found.examples] == [
                    [part.replace("Unmistakable", words) for part in spans_of(one, name)] for one in long.examples]


def spans_of(example: Example, name: str) -> list[str]:
    """The texts of an example that are trained or not by turns."""
    text, trained = as_bytes(example, name)
    runs = groupby(zip(text, trained, strict=True), key=itemgetter(1))
    return [bytes(byte for byte, _ in run).decode() for _, run in runs]


def with_words(words: str) -> dict[str, Conversation]:
    """Conversations that say these words in one place each."""
    tools = json.dumps([{"type": "function", "function": {
        "name": "weather", "description": f"the {words}", "parameters": {"type": "object", "properties": {}}}}],
        ensure_ascii=False)
    call = ToolCall("weather", json.dumps({"town": f"Ba {words} ko"}, ensure_ascii=False))
    return {where: Conversation(turns, ORIGIN, asked) for where, turns, asked in (
        ("question and answer", (user(f"Qa {words} hi"), says(f"Aa {words} you")), None),
        ("system", (Turn("system", f"Sa {words}"), user("Qa"), says("Aa")), None),
        ("thought", (user("Qa"), thinks(f"Ha {words} hm", "Aa")), None),
        ("tool", (user("Qa"), says("Aa")), tools),
        ("argument", (user("Qa"), says("", call)), None),
        ("result", (user("Qa"), says("", SKY), Turn("tool", f"Ra {words}"), says("Aa")), None))}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_look_alike_becomes_a_control_token(name: str) -> None:
    """Neither rejected nor escaped text may change which control tokens there are, wherever it stands."""
    renderer, _ = case_of(name, {})
    escaping, _ = case_of(name, {}, control_text="escape")
    stop = renderer.template.stop
    for plain, spelled in zip(with_words("so").values(), with_words(stop).values(), strict=True):
        made = [escaping.render(one) for one in (plain, spelled)]
        if isinstance(made[0], Rejected):  # the table says why
            continue
        found = renderer.render(spelled)
        assert isinstance(found, Rejected)
        assert found.why is Why.CONTROL_TOKEN
        control = [[[token for token in one.input_ids if token >= 256] for one in found.examples] for found in made]
        assert control[0] == control[1]
    text, trained = as_bytes(escaping.render(with_words(stop)["question and answer"]).examples[-1], name)
    assert f"Aa {stop} you" in bytes(byte for byte, mask in zip(text, trained, strict=True) if mask).decode()


if __name__ == "__main__":
    for name in sorted(FAMILIES):
        for keywords in FAMILIES[name].keywords:
            try:
                print(row_of(name, keywords))
            except AssertionError as error:
                print("WRONG", name, keywords, error)
