"""Conversations of every kind that data has: turns, thoughts, calls of tools and their results."""

from __future__ import annotations

import json

from sft_core.conversation import ToolCall, Turn

TOOLS = json.dumps([{"type": "function", "function": {"name": name, "description": f"the {name}", "parameters": {
    "type": "object", "properties": {key: {"type": "string", "description": key} for key in keys}}}}
    for name, keys in (("weather", ("town",)), ("clock", ()))])
SKY, CLOCK = ToolCall("weather", '{"town": "Bako"}'), ToolCall("clock", "{}")
RICH = ToolCall("weather", '{"town": "Bako", "days": 3, "at": null, "near": ["Tamu", {"x": 1.5}], "wet": true}')


def user(text: str) -> Turn:
    return Turn("user", text)


def says(text: str, *calls: ToolCall) -> Turn:
    return Turn("assistant", text, calls)


def thinks(thought: str, text: str, *calls: ToolCall) -> Turn:
    return Turn("assistant", f"<think>\n{thought}\n</think>\n\n{text}", calls)


SYSTEM, GREY, NOON = Turn("system", "Sa kind"), Turn("tool", "Ra grey"), Turn("tool", "Rb noon")
CHATS: dict[str, tuple[Turn, ...]] = {
    "plain": (user("Qa hi"), says("Aa hello")),
    "system": (SYSTEM, user("Qa hi"), says("Aa hello")),
    "empty system": (Turn("system", ""), user("Qa hi"), says("Aa hello")),
    "several turns": (user("Qa hi"), says("Aa hello"), user("Qb and?"), says("Ab more"), user("Qc so?"),
                      says("Ac end")),
    "white space": (user("  Qa hi\n"), says("  Aa hello \n"), user("\nQb and?"), says("Ab more\n\nlines  ")),
    "unicode": (user("Qa 你好 – ½ e\u0301 🙂"), says("Grüße, 世界 🙂 \u200b ok")),
    "thinking switched off": (Turn("system", "Sa kind /no_think"), user("Qa hi"), says("Aa hello")),
    "switch alone": (Turn("system", "/no_think"), user("Qa hi /think"), thinks("Ha hm", "Aa hello")),
    "thought": (user("Qa hi"), thinks("Ha hm", "Aa hello")),
    "thought first": (user("Qa hi"), thinks("Ha hm", "Aa hello"), user("Qb and?"), says("Ab more")),
    "thought last": (user("Qa hi"), says("Aa hello"), user("Qb and?"), thinks("Hb hm", "Ab more")),
    "thoughts": (SYSTEM, user("Qa hi"), thinks("Ha hm", "Aa hello"), user("Qb and?"), thinks("Hb so", "Ab more"),
                 user("Qc and?"), thinks("Hc la", "Ac end")),
    "empty thought": (user("Qa hi"), says("<think>\n\n</think>\n\nAa hello")),
    "thought that is the answer": (user("Qa hi"), thinks("four", "four")),
    "tools unused": (user("Qa hi"), says("Aa hello")),
    "call": (user("Qa sky?"), says("", SKY)),
    "call of no arguments": (user("Qa time?"), says("", CLOCK), NOON, says("Aa noon")),
    "rich call": (user("Qa sky?"), says("", RICH), GREY, says("Aa grey")),
    "two calls": (user("Qa sky?"), says("", SKY, CLOCK), GREY, NOON, says("Aa both")),
    "call with text": (user("Qa sky?"), says("Aa look", SKY), GREY, says("Ab grey")),
    "result": (SYSTEM, user("Qa sky?"), says("", SKY), Turn("tool", '{"sky": "grey"}'), says("Aa grey"), user("Qb thx"),
               says("Ab bye")),
    "calls in a row": (user("Qa sky?"), says("", SKY), GREY, says("", CLOCK), NOON, says("Aa grey")),
    "thoughts and calls": (user("Qa sky?"), thinks("Ha look", "", SKY), GREY, thinks("Hb so", "Aa grey")),
    "thought, text and call": (user("Qa sky?"), thinks("Ha look", "Aa wait", SKY), GREY, says("Ab grey"),
                               user("Qb thx"), thinks("Hc la", "Ab bye")),
    "call without tools": (user("Qa sky?"), says("", SKY), GREY, says("Aa grey")),
}
WITH_TOOLS = {"tools unused"} | {name for name, turns in CHATS.items() if any(one.tool_calls for one in turns)
                                 } - {"call without tools"}
