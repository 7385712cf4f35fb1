"""Chats as public data sets write them → a list of messages with `role` and `content`.

Lists of strings (LIMA), pairs of question and answer (Capybara), Gemini's `contents` and `parts`, transcripts in one
text, and Anthropic's blocks, of which one message may hold several results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_core.conversation import Why
from sft_core.data import transcripts
from sft_core.data.messages import Refused, as_json, parsed, shown, text


def as_messages(value: object) -> list[Any]:
    """A chat as its messages; those that have roles already are given back as they are.

    Raises:
        Refused: it is no list with something in it and no transcript, or a part of it cannot be read.
    """
    if isinstance(value, str):
        value = transcripts.messages_of(value) or parsed(value, "the list of messages")
    if not isinstance(value, list) or not value:
        raise Refused(Why.WRONG_TYPE, f"the messages are not a list with something in it but {shown(value)}")
    first = value[0]
    if isinstance(first, str):
        return [{"role": "assistant" if at % 2 else "user", "content": said} for at, said in enumerate(value)]
    if not isinstance(first, Mapping):
        return value
    if is_pair(first):
        return list(_pairs(value))
    return list(_of_gemini(value)) if "parts" in first else value


def spread(messages: Sequence[Any], content: str) -> Iterator[Any]:
    """Messages with Anthropic's blocks as OpenAI writes them: calls in `tool_calls`, every result a message.

    Args:
        content: the key of what a message says.
    """
    for message in messages:
        blocks = message.get(content) if isinstance(message, Mapping) else None
        if not isinstance(blocks, list) or not any(_kind(block) in ("tool_use", "tool_result") for block in blocks):
            yield message
            continue
        yield from ({**message, "role": "tool", "tool_call_id": block.get("tool_use_id"),
                     content: block.get("content") or ""} for block in blocks if _kind(block) == "tool_result")
        rest = [block for block in blocks if _kind(block) not in ("tool_use", "tool_result")]
        calls = [{"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}
                 for block in blocks if _kind(block) == "tool_use"]
        if rest or calls:
            yield {**message, content: rest, **({"tool_calls": calls} if calls else {})}


def _kind(block: object) -> object:
    return block.get("type") if isinstance(block, Mapping) else None


def parts_of(value: object, what: str) -> Iterator[str]:
    """The texts of a list of parts, alone or under `parts`."""
    parts = value.get("parts") if isinstance(value, Mapping) else value
    for part in parts if isinstance(parts, list) else [parts]:
        yield text(part.get("text") if isinstance(part, Mapping) else part, f"a part of {what}")


def is_pair(entry: object) -> bool:
    """A question and its answer, maybe with more about them, and no message with a role."""
    return isinstance(entry, Mapping) and {"input", "output"} <= set(entry) and {"role", "from"}.isdisjoint(entry)


def _pairs(value: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for number, pair in enumerate(value, 1):
        if not is_pair(pair):
            raise Refused(Why.WRONG_TYPE, f"entry {number} is not a pair of input and output but {shown(pair)}")
        yield {"role": "user", "content": pair["input"]}
        more = {key: said for key, said in pair.items() if key not in ("input", "output")}
        yield {**more, "role": "assistant", "content": pair["output"]}


def _of_gemini(value: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Gemini's contents; a result is a message of its own and has no id."""
    for number, one in enumerate(value, 1):
        parts = one.get("parts") if isinstance(one, Mapping) else None
        if not isinstance(parts, list):
            raise Refused(Why.WRONG_TYPE, f"turn {number} has no list of parts: {shown(one)}")
        said = [_part(part, number) for part in parts]
        one = {key: value for key, value in one.items() if key != "parts"}
        yield from ({**one, "role": "tool", "content": part["content"]} for part in said if "content" in part)
        rest = [part for part in said if "content" not in part]
        if rest:
            yield {**one, "role": one.get("role", "user"), "content": [part for part in rest if part["type"] != "call"],
                   "tool_calls": [part["call"] for part in rest if part["type"] == "call"]}


def _part(part: object, number: int) -> dict[str, Any]:
    if isinstance(part, Mapping):
        folded = {str(key).replace("_", "").lower(): value for key, value in part.items()}
        call, result = folded.get("functioncall"), folded.get("functionresponse")
        if isinstance(call, Mapping):
            return {"type": "call", "call": {"name": call.get("name"), "arguments": call.get("args")}}
        if isinstance(result, Mapping):
            return {"type": "result", "content": _written(result.get("response"), f"a response of turn {number}")}
        if isinstance(part.get("text"), str):
            return {"type": "thinking" if part.get("thought") is True else "text", "text": part["text"]}
    raise Refused(Why.WRONG_TYPE, f"a part of turn {number} is neither text, functionCall nor functionResponse: "
                                  f"{shown(part)}")


def _written(response: object, what: str) -> str:
    return response if isinstance(response, str) else as_json(response, what)
