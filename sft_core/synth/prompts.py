"""What Self-Instruct asks: new instructions, whether one is a classification, and instances of it.

The steps are those of Wang et al. 2022, the wording is the project's own, and all examples are the seeds' or the
pool's. Each prompt ends where the answer goes on, so that base models and chat models are asked alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sft_core.stage import fingerprint
from sft_core.synth.contract import Messages
from sft_core.synth.seeds import Instance, Task

MORE = 8
"""New instructions that are asked for at once."""
SHOWN = 4
"""Worked examples of a kind."""
LONGEST_SHOWN = 600
"""Characters of a worked example, where there are enough so short ones."""
NONE = "(none)"

INSTRUCTIONS = """Below is a list of tasks that a language model can do by writing text. They differ in subject, in \
length and in what is to be written. Go on with the list up to task {last}, one task in a line.

{tasks}
Task {next}:"""
CLASSIFICATION = """Is the task a classification, whose answer is one of a few fixed labels? Answer Yes or No.

{tasks}
Task: {instruction}
Classification:"""
INPUT_FIRST = """Carry out each task once. Where it needs an input, make one up first; where it needs none, write \
{none}. Then write the output.

{tasks}
Task: {instruction}
Input:"""
OUTPUT_FIRST = """For each task, write a label that can be its answer, and then an input of which that label is right. \
Do so for different labels.

{tasks}
Task: {instruction}
Label:"""
VERSION = fingerprint(INSTRUCTIONS, CLASSIFICATION, INPUT_FIRST, OUTPUT_FIRST, MORE, SHOWN, LONGEST_SHOWN)


def more_instructions(examples: Sequence[Task]) -> Messages:
    """For up to `MORE` instructions behind these."""
    tasks = "\n".join(f"Task {n}: {_line(one.instruction)}" for n, one in enumerate(examples, 1))
    return _user(INSTRUCTIONS.format(tasks=tasks, next=len(examples) + 1, last=len(examples) + MORE))


def is_classification(instruction: str, examples: Sequence[Task]) -> Messages:
    """Yes or no."""
    tasks = "\n".join(f"Task: {_line(one.instruction)}\nClassification: {'Yes' if one.classification else 'No'}\n"
                      for one in examples)
    return _user(CLASSIFICATION.format(tasks=tasks, instruction=_line(instruction)))


def input_first(instruction: str, examples: Sequence[Task]) -> Messages:
    """An input, where one is needed, and the output."""
    tasks = "\n".join(f"Task: {_line(one.instruction)}\nInput: {one.instances[0].input or NONE}\n"
                      f"Output: {one.instances[0].output}\n" for one in examples)
    return _user(INPUT_FIRST.format(tasks=tasks, instruction=_line(instruction), none=NONE))


def output_first(instruction: str, examples: Sequence[Task]) -> Messages:
    """Labels, and an input for each: asked the other way round, inputs are mostly of one label."""
    tasks = "\n".join(f"Task: {_line(one.instruction)}\n{_labelled(one.instances)}" for one in examples)
    return _user(OUTPUT_FIRST.format(tasks=tasks, instruction=_line(instruction)))


class Examples:
    """The worked examples of a run, drawn once from the seeds."""

    def __init__(self, seeds: Sequence[Task], seed: int) -> None:
        draw = random.Random(f"{seed} examples")
        some = [one for one in seeds if one.instances]
        self.plain = _drawn(draw, [one for one in some if not one.classification])
        self.labelled = _drawn(draw, [one for one in some if one.classification])
        said = [one for one in seeds if one.classification is False]
        mixed = [*_drawn(draw, said), *self.labelled]
        draw.shuffle(mixed)
        self.both = mixed if said and self.labelled else []
        """Of both kinds; empty where the seeds do not tell them apart, and then no task is asked for its kind."""


def _drawn(draw: random.Random, tasks: Sequence[Task]) -> list[Task]:
    short = [one for one in tasks if len(one.instruction) + sum(map(len, one.instances[0])) <= LONGEST_SHOWN]
    found = short if len(short) >= SHOWN else list(tasks)
    return draw.sample(found, min(SHOWN, len(found)))


def _labelled(instances: Sequence[Instance]) -> str:
    return "".join(f"Label: {one.output}\nInput: {one.input or NONE}\n" for one in instances[:2])


def _line(text: str) -> str:
    return " ".join(text.split())


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]
