"""What is read out of an answer before it is scored: the part behind the reasoning, strict JSON."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

OPENED = re.compile(r"[{\[]")
MOST_OPENED = 200
FINAL_CHANNEL = "<|channel|>final<|message|>"


def without_thought(answer: str) -> str:
    """The answer behind a reasoning block, which some templates open in the prompt; '' if the block never ends.

    Blocks are <think>…</think>, and the channels of gpt-oss, of which `final` is the answer and `commentary` calls
    tools.
    """
    if answer.lstrip().startswith("<|channel|>analysis"):
        _, final, rest = answer.rpartition(FINAL_CHANNEL)
        return rest if final else answer if "to=functions." in answer else ""
    answer = answer.removeprefix(FINAL_CHANNEL)
    thought, end, rest = answer.partition("</think>")
    if end and "<think>" not in thought.lstrip()[1:]:
        return rest.lstrip()
    return "" if answer.lstrip().startswith("<think>") else answer


class NotJson(ValueError):
    """The text is not the JSON asked for; the message says why."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("a key is there twice")
    return found


def _constant(name: str) -> None:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise NotJson(f"{text} is too large for a number")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite)


def json_values(text: str) -> list[Any]:
    """Strict JSON values one after the other, with nothing but space, commas and semicolons between them.

    Raises:
        NotJson: something else is there, a key is doubled, or a number is NaN or infinite.
    """
    found: list[Any] = []
    at = 0
    while at < len(text):
        try:
            value, at = DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise NotJson(f"not JSON: {error.msg} at character {error.pos}") from error
        except RecursionError as error:
            raise NotJson("JSON nested too deeply") from error
        except ValueError as error:  # an integer of more digits than Python reads
            raise error if isinstance(error, NotJson) else NotJson(str(error)) from error
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip(" \n\r\t;,"))
    return found


def strict_json(text: str) -> Any:
    """One strict JSON value and nothing around it.

    Raises:
        NotJson: it is something else, a key is doubled, or a number is NaN or infinite.
    """
    plain = text.strip(" \n\r\t")
    values = json_values(plain)
    if len(values) != 1 or plain.endswith((",", ";")):
        raise NotJson("not JSON: nothing there" if not values else "not JSON: more than one value")
    return values[0]


def json_inside(text: str) -> list[Any]:
    """The JSON objects and lists in a text, outermost only; of many opening brackets the first `MOST_OPENED`."""
    found: list[Any] = []
    end = 0
    for opened in itertools.islice(OPENED.finditer(text), MOST_OPENED):
        if opened.start() < end:
            continue
        try:
            value, end = DECODER.raw_decode(text, opened.start())
        except (ValueError, RecursionError):
            continue
        found.append(value)
    return found


def same_json(a: Any, b: Any) -> bool:
    """Equal as JSON values: 1 equals 1.0, and neither equals true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    return bool(type(a) is type(b) or (isinstance(a, int | float) and isinstance(b, int | float))) and a == b
