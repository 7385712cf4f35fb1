"""What generators say to the prompts of Self-Instruct, read: they repeat marks, number as they like, do not stop."""

from __future__ import annotations

import re

from sft_core.synth.contract import Said
from sft_core.synth.prompts import MORE, NONE
from sft_core.synth.seeds import Instance

_NUMBERED = re.compile(r"^[ \t]*(?:#+[ \t]*)?\**(?:task|instruction)?[ \t]*\d+[ \t]*[.:)][ \t]*\**[ \t]*",
                       re.IGNORECASE | re.MULTILINE)
_MARK = re.compile(r"^[ \t]*(?:#+[ \t]*)?\**(task|input|output|label)(?:[ \t]*\d+)?\**[ \t]*:\**[ \t]*",
                   re.IGNORECASE | re.MULTILINE)
_NOTHING = re.compile(r"\W*(?:none|n/?a|no input|empty|not needed)\W*", re.IGNORECASE)
_YES = re.compile(r"\W*yes\b", re.IGNORECASE)


def instructions_in(said: Said) -> list[str]:
    """Instructions in an answer to `more_instructions`, at most as many as were asked for; of an answer that was cut
    off not the last one."""
    pieces = _NUMBERED.split(_behind_thought(said.text or ""))
    found = [" ".join(one.split()) for one in pieces]
    if not said.stopped:
        found = found[:-1]
    return [one for one in found if one][:MORE]


def says_yes(said: Said) -> bool:
    """Whether an answer to `is_classification` says so; anything else than a yes is a no."""
    return _YES.match(_behind_thought(said.text or "")) is not None


def instances_in(said: Said, labels: bool) -> list[Instance]:
    """Instances in an answer to `output_first` (`labels`) or `input_first`, up to the next task; of an answer that was
    cut off not the last one. One without an output has an empty one."""
    text = _behind_thought(said.text or "")
    first = "label" if labels else "input"
    begun = _MARK.match(text)
    parts = _MARK.split(text if begun else f"{first}: {text}")
    marks = [(mark.lower(), body.strip()) for mark, body in zip(parts[1::2], parts[2::2], strict=True)]
    found: list[dict[str, str]] = []
    for mark, body in marks:
        if mark == "task" and found:
            break
        if mark == first:
            found.append({})
        if mark != "task" and found:
            found[-1].setdefault("output" if mark == "label" else mark, body)
    if not said.stopped and marks[-1][0] != "task":
        found = found[:-1]
    return [Instance(_input(one.get("input", "")), one.get("output", "")) for one in found]


def _input(text: str) -> str:
    return "" if text == NONE or _NOTHING.fullmatch(text) else text


def _behind_thought(text: str) -> str:
    return text.rpartition("</think>")[2].strip()
