"""Conversations that tell tokenizations apart, for the parity certificate."""

from __future__ import annotations

import json
from typing import NamedTuple

from sft_core.conversation import ToolCall, Turn

ANSWER = "I can help with that."
"""What training puts behind each probe."""
TOOLS = json.dumps([{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])
LOOKALIKES = ("<|im_begin|>", "< /s>", "[ INST ]", "<|user |>", "<start of turn>")
SENTENCE = "The quick brown fox jumps over the lazy dog. "


class Probe(NamedTuple):
    """Turns that end with a question, or with the results of tools."""

    name: str
    turns: tuple[Turn, ...]
    tools: str | None = None


def probes(window: int, controls: tuple[str, ...]) -> list[Probe]:
    """The probe conversations.

    Args:
        window: tokens that the model can see; sizes the long one.
        controls: control tokens of the tokenizer. The first is spelled out in one probe, which training refuses.
    """
    ask = Turn("user", "What is the capital of France?")
    call = Turn("assistant", "", (ToolCall("get_weather", '{"city": "Zürich"}'),))
    made = [
        Probe("single turn", (ask,)),
        Probe("several turns", (Turn("user", "Hi!"), Turn("assistant", "Hello. How can I help?"), ask)),
        Probe("system prompt", (Turn("system", "You are brief."), ask)),
        Probe("empty system prompt", (Turn("system", ""), ask)),
        Probe("white space around", (Turn("user", "  two spaces, a tab\t and a line\n\nbreak \n"),)),
        Probe("unicode", (Turn("user", "Grüße, 東京! e\u0301 ≠ é 👩\u200d🔬 ﬁ \u00a0 العربية"),)),
        Probe("looks like control tokens", (Turn("user", f"What is {' '.join(LOOKALIKES)}?"),)),
        Probe("long", (Turn("user", SENTENCE * max(1, min(1024, window // 3) // len(SENTENCE.split()) // 2)),)),
        Probe("tools", (Turn("user", "Weather in Zürich?"),), TOOLS),
        Probe("tool result", (Turn("user", "Weather in Zürich?"), call, Turn("tool", '{"celsius": 21}')), TOOLS),
    ]
    if controls:
        made.append(Probe("spells a control token", (Turn("user", f"What does {controls[0]} mean?"),)))
    return made
