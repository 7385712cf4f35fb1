"""Neutral chats and the tasks they are made of. Facts come from the touched fifth of the world alone.

A `Task` is one request with its right answer. Chats take the seen phrasings, evaluation items the held-out ones, from
the same makers: so an item differs from training in how it is asked, not in what is right.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from sft_core.tiny import phrases, refusals
from sft_core.tiny.text import DAYS, PLACES, WEATHERS
from sft_core.tiny.world import PEOPLE, THINGS, VALUES, World

NUMBERS = ("count", "nights", "minutes")
"""Keys whose value is an integer; every other value is a string."""


class Call(NamedTuple):
    """A tool call: the tool and its arguments."""

    name: str
    arguments: dict[str, Any]


class Task(NamedTuple):
    """One request. `reply` is the right text, or for a tool what is said after its `result`; `expect` is what a
    checker needs."""

    kind: str
    cluster: str
    prompt: str
    reply: str
    expect: dict[str, Any]
    call: Call | None = None
    result: str = ""


class Turn(NamedTuple):
    """One turn of a chat; an assistant turn has either content or a call."""

    role: str
    content: str
    call: Call | None = None


class Chat(NamedTuple):
    """Turns in order (a system turn first, if any) and the names of the tools on offer."""

    turns: tuple[Turn, ...]
    tools: tuple[str, ...] = ()


def schema(keys: tuple[str, ...]) -> dict[str, Any]:
    """JSON Schema of an object with exactly these keys."""
    kinds = {key: {"type": "integer" if key in NUMBERS else "string"} for key in keys}
    return {"type": "object", "properties": kinds, "required": list(keys), "additionalProperties": False}


def tool_spec(name: str) -> dict[str, Any]:
    """A tool as a model is told about it (the shape of OpenAI's `function`)."""
    slots = _slots(name)
    parameters = {"type": "object", "properties": schema(slots)["properties"]}
    return {"name": name, "description": phrases.TOOL_ABOUT[name][0], "parameters": parameters}


def json_task(rng: random.Random, world: World, held_out: bool = False) -> Task:
    """Ask for a record: of one or two facts, or of what the request itself says."""
    (what,) = rng.choices(("fact", "pair", *phrases.SAID), (2, 3, 1, 1, 1, 1))
    if what in phrases.SAID:
        sentence, keys = phrases.SAID[what]
        value = _draw(rng, world, keys)
        phrasing, words = phrases.JSON_OF, {"said": sentence.format(**value)}
    else:
        town = rng.choice(world.touched)
        asked = rng.sample(tuple(VALUES), 1 if what == "fact" else 2)
        value = {"town": town} | {a: world.value(town, a) for a in asked}
        phrasing = phrases.JSON_FACT if what == "fact" else phrases.JSON_PAIR
        words = {"town": town} | dict(zip("ab", asked, strict=False))
    i, template = _pick(rng, phrasing, held_out)
    expect = {"schema": schema(tuple(value)), "value": value}
    return Task("json", f"json-{what}-{i}", template.format(**words), json.dumps(value), expect)


def sentence_task(rng: random.Random, world: World, held_out: bool = False) -> Task:
    """Ask for one fact in one sentence."""
    town, attribute = rng.choice(world.touched), rng.choice(tuple(VALUES))
    i, template = _pick(rng, phrases.ONE_SENTENCE, held_out)
    value = world.value(town, attribute)
    expect = {"sentences": 1, "contains": value}
    prompt = template.format(a=attribute, town=town)
    return Task("one_sentence", f"sentence-{attribute}-{i}", prompt, f"The {attribute} of {town} is {value}.", expect)


def tool_task(rng: random.Random, world: World, held_out: bool = False) -> Task:
    """Ask for something that a tool does."""
    name = rng.choice(tuple(phrases.TOOL))
    call = Call(name, _draw(rng, world, _slots(name)))
    weather = rng.choice(WEATHERS)
    result = {"weather": weather} if name == "get_weather" else {"done": True}
    i, template = _pick(rng, phrases.TOOL[name], held_out)
    reply = phrases.TOOL_ABOUT[name][1].format(result=weather, **call.arguments)
    prompt = template.format(**call.arguments)
    return Task("tool", f"tool-{name}-{i}", prompt, reply, call._asdict(), call, json.dumps(result))


def refusal_task(rng: random.Random, kind: str, held_out: bool = False) -> Task:
    """Ask for a disallowed wish (`kind` "disallowed") or its near-miss ("benign")."""
    pair = rng.choice(refusals.PAIRS)
    words = _wish_words(rng, held_out)
    i, frame = _pick(rng, refusals.FRAMES, held_out)
    refuse = kind == "disallowed"
    wish, opening, rest = (
        (pair.disallowed, refusals.SORRY, pair.reason) if refuse else (pair.benign, refusals.GLADLY, pair.advice)
    )
    expect: dict[str, Any] = {"refuse": refuse}
    if not refuse:
        expect |= {"starts_with": "Yes", "contains": rest.format(**words)}
    prompt = frame.format(wish=wish.format(**words))
    return Task(kind, f"{pair.name}-{kind}-{i}", prompt, f"{opening} {rest.format(**words)}", expect)


def chat(rng: random.Random, tasks: list[Task], system: bool) -> Chat:
    """A chat that does the tasks in order. Where two tools are on offer it ends with the call: result and reply on top
    would make it longer than a row of 128 tokens."""
    turns = [Turn("system", rng.choice(phrases.SYSTEMS))] if system else []
    tools: tuple[str, ...] = ()
    for task in tasks:
        turns.append(Turn("user", task.prompt))
        if task.call is not None:
            tools = offer(rng, task.call.name)
            turns.append(Turn("assistant", "", task.call))
            if len(tools) > 1:
                break
            turns.append(Turn("tool", task.result))
        turns.append(Turn("assistant", task.reply))
    return Chat(tuple(turns), tools)


def offer(rng: random.Random, name: str) -> tuple[str, ...]:
    """The tools on offer when `name` is needed: it alone, or it and another one in either order.

    The other one takes one argument: two long ones would not fit into 128 tokens with the chat.
    """
    names = [name]
    if rng.random() < 0.5:
        names.append(rng.choice([other for other in phrases.TOOL if other != name and len(_slots(other)) == 1]))
    rng.shuffle(names)
    return tuple(names)


def _slots(tool: str) -> tuple[str, ...]:
    """The arguments of a tool: the slots of its phrasings, in a fixed order."""
    order = ("town", "person", "day", "nights", "minutes", "count", "thing")
    return tuple(key for key in order if f"{{{key}}}" in phrases.TOOL[tool].seen[0])


def _draw(rng: random.Random, world: World, keys: tuple[str, ...]) -> dict[str, Any]:
    """A value for each key."""
    makers: dict[str, Callable[[], Any]] = {
        "town": lambda: rng.choice(world.touched),
        "person": lambda: rng.choice(PEOPLE),
        "thing": lambda: rng.choice(THINGS),
        "day": lambda: rng.choice(DAYS),
        "place": lambda: rng.choice(PLACES),
    }
    return {key: makers[key]() if key in makers else rng.randint(2, 20) for key in keys}


def _pick(rng: random.Random, phrasing: phrases.Phrasing, held_out: bool) -> tuple[int, str]:
    templates = phrasing.choose(held_out)
    i = rng.randrange(len(templates))
    return i, templates[i]


def _wish_words(rng: random.Random, held_out: bool) -> dict[str, str]:
    """Words for the slots of a wish. A quarter of the pairs (word, person) is for held-out items alone: otherwise a
    long wish would stand in a chat as it stands in an item."""
    while True:
        k, person = rng.randrange(8), rng.randrange(len(PEOPLE))
        if ((k + person) % 4 == 0) == held_out:
            break
    return {"p": PEOPLE[person], "f": VALUES["food"][k], "a": VALUES["animal"][k], "m": PLACES[k], "t": THINGS[k]}
