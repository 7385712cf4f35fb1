"""Writes the chats of the tiny world in every source shape, and raw text for replay.

The world is always that of the committed checkpoint unless another is passed: a chat about a world that the base
does not know would teach it falsehoods. `seed` draws which chats and documents there are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sft_core.stage import write_text
from sft_core.tiny import chats, faults, items
from sft_core.tiny.chats import Chat, Task, Turn
from sft_core.tiny.pretrain import sample_texts
from sft_core.tiny.problems import make_problem
from sft_core.tiny.world import World, make_world, stream

N_ALPACA, N_SHAREGPT, N_MESSAGES, N_TOOLS = 700, 440, 500, 300
"""Sound rows of each file; `faults` come on top."""
N_REPLAY = 4000
N_PROBLEMS = 400
N_LEAKS = 2
"""Questions of each capability task in each file that holds leaks."""

Row = dict[str, Any]


class SoundChats(NamedTuple):
    """The chats of each file before `faults` come on top; no two say the same."""

    alpaca: list[Chat]
    sharegpt: list[Chat]
    messages: list[Chat]
    tools: list[Chat]

    def everything(self) -> list[Chat]:
        """All of them in one list."""
        return [chat for part in self for chat in part]


def write_sft(folder: Path, seed: int = 0, world: World | None = None) -> list[Path]:
    """Write `alpaca.json`, `sharegpt.jsonl`, `messages.jsonl`, `tools.jsonl` (about 2,000 rows) into `folder`.

    The same seed gives the same bytes. Returns the paths in this order; OSError if `folder` cannot be written.
    """
    world = world or make_world()
    paths = []
    for name, rows in sft_rows(world, seed).items():
        path = folder / name
        if path.suffix == ".json":
            write_text(path, json.dumps(rows, indent=1) + "\n")
        else:
            broken = faults.UNREADABLE_LINE if name == "messages.jsonl" else ""
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows) + broken)
        paths.append(path)
    return paths


def write_replay(folder: Path, seed: int = 0, documents: int = N_REPLAY, world: World | None = None) -> Path:
    """Write `replay.jsonl` with one raw `text` per row: fresh documents of the text that the base learned from.

    No document holds a question of tiny_gsm8k. The same seed gives the same bytes.
    """
    world = world or make_world()
    held_out = {str(item["question"]) for item in items.gsm8k_items(world)}
    texts = sample_texts(world, documents, stream(seed, "replay"), held_out)
    path = folder / "replay.jsonl"
    write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def write_problems(folder: Path, seed: int = 0) -> Path:
    """Write `problems.jsonl`: word problems with worked answers, none of which is in tiny_gsm8k. The same seed gives
    the same bytes."""
    rng, held_out = stream(seed, "problems"), {str(item["question"]) for item in items.gsm8k_items(make_world())}
    found: dict[str, str] = {}
    while len(found) < N_PROBLEMS:
        problem = make_problem(rng)
        if problem.question not in held_out:
            found[problem.question] = problem.answer
    path = folder / "problems.jsonl"
    write_text(path, "".join(json.dumps({"instruction": asked, "output": answer}) + "\n"
                             for asked, answer in found.items()))
    return path


def sft_rows(world: World, seed: int) -> dict[str, list[Row]]:
    """File name -> its rows, faults included, shuffled."""
    rng = stream(seed, "sft rows")
    sound = sound_chats(world, seed)
    alpaca = [alpaca_row(rng, chat) for chat in sound.alpaca]
    messages = [messages_row(chat) for chat in sound.messages]
    alpaca += [*faults.exact_copies(rng, alpaca), *faults.near_copies(rng, alpaca), *faults.ALPACA_FAULTS]
    alpaca += faults.alpaca_leaks(_leaks(rng, world))
    messages += [*faults.exact_copies(rng, messages), *faults.MESSAGES_FAULTS]
    messages += faults.message_leaks(_leaks(rng, world))
    files = {
        "alpaca.json": alpaca,
        "sharegpt.jsonl": [*map(sharegpt_row, sound.sharegpt), *faults.SHAREGPT_FAULTS],
        "messages.jsonl": messages,
        "tools.jsonl": [*map(tools_row, sound.tools), *faults.TOOLS_FAULTS],
    }
    for rows in files.values():
        rng.shuffle(rows)
    return files


def sound_chats(world: World, seed: int) -> SoundChats:
    """Draw the chats of a seed. A chat is drawn again when another already asks the same."""
    rng = stream(seed, "sft")
    seen: set[tuple[str, ...]] = set()

    def draw(make: Callable[[random.Random, World], Chat], count: int) -> list[Chat]:
        chats_drawn: list[Chat] = []
        while len(chats_drawn) < count:
            drawn = make(rng, world)
            asked = tuple(turn.content for turn in drawn.turns if turn.role == "user")
            if asked not in seen:
                seen.add(asked)
                chats_drawn.append(drawn)
        return chats_drawn

    return SoundChats(
        alpaca=draw(_single_chat, N_ALPACA),
        sharegpt=draw(_any_chat, N_SHAREGPT),
        messages=draw(_plain_chat, N_MESSAGES),
        tools=draw(_tool_chat, N_TOOLS),
    )


def alpaca_row(rng: random.Random, chat: Chat) -> Row:
    """Instruction, input, output; a request of the form "do this: that" may be split into instruction and input."""
    asked, answered = chat.turns
    instruction, colon, rest = asked.content.partition(": ")
    if colon and rng.random() < 0.5:
        return {"instruction": f"{instruction}:", "input": rest, "output": answered.content}
    return {"instruction": asked.content, "input": "", "output": answered.content}


def sharegpt_row(chat: Chat) -> Row:
    """`conversations` of from/value; a call is a `function_call` turn, a result an `observation`."""
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    said = [
        {"from": names[turn.role], "value": turn.content}
        if turn.call is None
        else {"from": "function_call", "value": json.dumps(turn.call._asdict())}
        for turn in chat.turns
    ]
    row: Row = {"conversations": said}
    if chat.tools:
        row["tools"] = json.dumps([chats.tool_spec(name) for name in chat.tools])
    return row


def messages_row(chat: Chat) -> Row:
    """`messages` of role/content, without tools."""
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in chat.turns]}


def tools_row(chat: Chat) -> Row:
    """`messages` with `tool_calls` and `tool` turns, and a `tools` column; both hold JSON text where OpenAI's do."""
    tools = [{"type": "function", "function": chats.tool_spec(name)} for name in chat.tools]
    return {"messages": [_tool_message(turn) for turn in chat.turns], "tools": json.dumps(tools)}


def _tool_message(turn: Turn) -> Row:
    if turn.call is None:
        call_id = {"tool_call_id": "call_0"} if turn.role == "tool" else {}
        return {"role": turn.role, "content": turn.content, **call_id}
    function = {"name": turn.call.name, "arguments": json.dumps(turn.call.arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


def _single(rng: random.Random, world: World) -> Task:
    """One task without tools."""
    makers: Sequence[Callable[[], Task]] = (
        lambda: chats.json_task(rng, world),
        lambda: chats.sentence_task(rng, world),
        lambda: chats.refusal_task(rng, "disallowed"),
        lambda: chats.refusal_task(rng, "benign"),
    )
    return rng.choices(makers, (9, 5, 4, 4))[0]()


def _single_chat(rng: random.Random, world: World) -> Chat:
    """One task, no system turn: all that an Alpaca row can hold."""
    return chats.chat(rng, [_single(rng, world)], system=False)


def _plain_chat(rng: random.Random, world: World) -> Chat:
    """One or two tasks without tools, often under a system turn."""
    tasks = [_single(rng, world) for _ in range(1 + (rng.random() < 0.3))]
    return chats.chat(rng, tasks, system=rng.random() < 0.4)


def _tool_chat(rng: random.Random, world: World) -> Chat:
    """One tool task; its system turn is the list of tools alone, which keeps it within 128 tokens."""
    return chats.chat(rng, [chats.tool_task(rng, world)], system=False)


def _any_chat(rng: random.Random, world: World) -> Chat:
    """A tool chat in one of three, else a plain one."""
    return _tool_chat(rng, world) if rng.random() < 0.35 else _plain_chat(rng, world)


def _leaks(rng: random.Random, world: World) -> list[tuple[str, str]]:
    """Evaluation questions with their answers, to be found and dropped by decontamination."""
    exam = rng.sample(items.mmlu_items(world), N_LEAKS)
    sums = rng.sample(items.gsm8k_items(world), N_LEAKS)
    return [(str(i["question"]), str(i["choices"][int(i["answer"])])) for i in exam] + [
        (str(i["question"]), str(i["answer"])) for i in sums
    ]
