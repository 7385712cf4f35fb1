"""Self-Instruct as a stage."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_core.config.synth import SynthConfig
from sft_core.stage import fingerprint
from sft_core.synth.curve import Round
from sft_core.synth.prompts import VERSION
from sft_core.synth.rows import word
from sft_core.synth.seeds import read_seeds
from sft_core.synth.self_instruct import Grown, Left, SelfInstruct
from tasks.stages import Done, Workspace
from tasks.synth.generator import asker, holder, open_generator
from tasks.synth.made import made_once, write_made, write_manifest

log = logging.getLogger("sft")


def self_instruction(config: SynthConfig, place: Workspace) -> Done:
    """New tasks, found or made now.

    Raises:
        DataError, EvalError, ModelError, TemplateError: an input or the generator cannot be used, too many requests
            fail, or no row comes of it.
    """
    return made_once(config, place, lambda out: _make(config, place, out))


def _make(config: SynthConfig, place: Workspace, out: Path) -> Mapping[str, object]:
    section = config.self_instruct
    assert section is not None
    seeds, holds = read_seeds(section.seeds), holder(config, place)
    opened = open_generator(config.generator, config.seed, place)
    pool = SelfInstruct(seeds, section, config.seed, config.generator.max_new_tokens, asker(opened, config.generator),
                        holds)
    rounds: list[Round] = []
    for one in pool.rounds():
        rounds.append(one)
        log.info("%s", told(one, len(pool.rows)))
    who = word(opened.generator.name)
    report = _report(pool, rounds, len(seeds))
    write_made(out, [_row(one, who) for one in pool.rows], map(_left, pool.left), report["lines"])
    return write_manifest(out, config, opened.generator.name, opened.usage, VERSION, report)


def told(one: Round, rows: int) -> str:
    """A round in a line."""
    near = "nothing was proposed" if one.repetition is None else f"mean highest ROUGE-L {one.repetition:.2f}"
    new = "" if one.novelty is None else f", {one.novelty:.0%} of their word triples new"
    return (f"round {one.number}: {one.proposed} instructions proposed ({near}), {one.rows} rows came in{new}; "
            f"{rows} in all")


def _row(one: Grown, who: str) -> dict[str, Any]:
    """In the shape of Alpaca, which later runs can take for seeds."""
    return {"id": fingerprint(one.text), "instruction": one.instruction, "input": one.instance.input,
            "output": one.instance.output, "is_classification": one.classification,
            "provenance": {"generator": who, "prompts": VERSION, "round": one.round, "parents": list(one.parents)}}


def _left(one: Left) -> dict[str, Any]:
    there = one.instance._asdict() if one.instance else {}
    return {"why": one.why, "detail": one.detail, "instruction": one.instruction, **there}


def _report(pool: SelfInstruct, rounds: Sequence[Round], seeds: int) -> dict[str, Any]:
    return {"seeds": seeds, "rows": len(pool.rows), "ended": pool.why_ended(rounds),
            "instructions": _summed(one.instructions for one in rounds),
            "instances": _summed(one.instances for one in rounds),
            "unanswered": sum(one.unanswered for one in rounds),
            "rounds": [{**one._asdict(), "rows": one.rows, "gain": one.gain} for one in rounds],
            "lines": [f"{len(pool.rows)} rows out of {len(rounds)} rounds from {seeds} seed tasks; "
                      f"it ended because {pool.why_ended(rounds)}"]}


def _summed(tallies: Iterator[Mapping[str, int]]) -> dict[str, int]:
    """By reason, most first; what came in is `kept`."""
    total: Counter[str] = Counter()
    for one in tallies:
        total.update(one)
    return {why or "kept": number for why, number in total.most_common()}
