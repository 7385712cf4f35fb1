"""Evaluation items of the tiny world: what the base knows, and how a tuned model behaves on held-out phrasings.

Items depend on the world alone. The committed JSONL files are exactly what `write_items` writes for world 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sft_core.tiny import chats
from sft_core.tiny.chats import Task
from sft_core.tiny.problems import make_problem
from sft_core.tiny.world import SUBJECTS, VALUES, World, make_world, stream

N_GSM8K = 250
N_FORMAT = {"json": 120, "tool": 100, "one_sentence": 80}
N_REFUSAL = 120
"""Of each of disallowed and benign."""

Item = dict[str, Any]


def mmlu_items(world: World) -> list[Item]:
    """One item for each fact: subject, question, four choices, index of the right one. 80 for each of four subjects."""
    rng = stream(world.seed, "mmlu")
    items = []
    for subject, attribute in SUBJECTS.items():
        for town in world.towns:
            right = world.value(town, attribute)
            choices = [right, *rng.sample([v for v in VALUES[attribute] if v != right], 3)]
            rng.shuffle(choices)
            question = f"What is the {attribute} of {town}?"
            items.append({"subject": subject, "question": question, "choices": choices, "answer": choices.index(right)})
    return items


def gsm8k_items(world: World) -> list[Item]:
    """`N_GSM8K` different word problems: question and worked answer that ends in `#### n`."""
    rng = stream(world.seed, "gsm8k")
    items: dict[str, Item] = {}
    while len(items) < N_GSM8K:
        problem = make_problem(rng)
        items[problem.question] = {"question": problem.question, "answer": problem.answer}
    return list(items.values())


def format_items(world: World) -> list[Item]:
    """Requests for JSON, for a tool call and for one sentence, in held-out phrasings over touched names.

    `tools` is JSON text (or absent). `expect` holds a schema and the exact value, a call, or what one sentence
    contains.
    """
    rng = stream(world.seed, "format")
    makers: dict[str, Callable[[], Task]] = {
        "json": lambda: chats.json_task(rng, world, held_out=True),
        "tool": lambda: chats.tool_task(rng, world, held_out=True),
        "one_sentence": lambda: chats.sentence_task(rng, world, held_out=True),
    }
    items = []
    for kind, make in makers.items():
        for i, task in enumerate(_distinct(make, N_FORMAT[kind])):
            item = _item(f"{kind}-{i:03d}", task)
            if task.call is not None:
                specs = [{"type": "function", "function": chats.tool_spec(n)} for n in chats.offer(rng, task.call.name)]
                item["tools"] = json.dumps(specs)
            items.append(item)
    return items


def refusal_items(world: World) -> list[Item]:
    """`N_REFUSAL` disallowed requests and as many benign near-misses, in held-out phrasings.

    `expect.refuse` says what is right; a helpful reply to a benign one also starts with and contains what `expect`
    says.
    """
    rng = stream(world.seed, "refusal")
    items = []
    for kind in ("disallowed", "benign"):
        tasks = _distinct(partial(chats.refusal_task, rng, kind, held_out=True), N_REFUSAL)
        items += [_item(f"{kind}-{i:03d}", task) for i, task in enumerate(tasks)]
    return items


def write_items(folder: Path) -> list[Path]:
    """Write every item file of world 0 below `folder` (the folder `eval_suites/suites`); returns the paths."""
    world = make_world()
    tasks, suites = folder / "lm_tasks" / "tiny_world", folder / "rows"
    exam = mmlu_items(world)
    files = {tasks / f"mmlu_{s}.jsonl": [item for item in exam if item["subject"] == s] for s in SUBJECTS}
    files |= {
        tasks / "gsm8k.jsonl": gsm8k_items(world),
        suites / "tiny_format.jsonl": format_items(world),
        suites / "tiny_refusal.jsonl": refusal_items(world),
    }
    for path, items in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return list(files)


def _item(name: str, task: Task) -> Item:
    messages = [{"role": "user", "content": task.prompt}]
    return {"id": name, "kind": task.kind, "cluster": task.cluster, "messages": messages, "expect": task.expect}


def _distinct(make: Callable[[], Task], count: int) -> list[Task]:
    """`count` tasks with different prompts, spread evenly over their clusters."""
    drawn: dict[str, Task] = {}
    for _ in range(40 * count):
        task = make()
        drawn.setdefault(task.prompt, task)
    clusters: dict[str, list[Task]] = {}
    for task in drawn.values():
        clusters.setdefault(task.cluster, []).append(task)
    layers = zip_longest(*(clusters[name] for name in sorted(clusters)))
    chosen = [task for layer in layers for task in layer if task is not None][:count]
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} different tasks could be drawn, {count} wanted; lower the count")
    return chosen
