"""Rejection sampling as a stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval_suites.scorers.toolcalls import parse_calls
from eval_suites.statistics.intervals import Interval
from eval_suites.verifiers.contract import Prompted, Verifier
from eval_suites.verifiers.sampling import KEPT, Outcome, Summary, sampled, summarised
from sft_core.config.synth import SynthConfig
from sft_core.synth.contract import Asked
from sft_core.synth.rows import row_of, word, write_rows
from tasks.stages import Done, Workspace
from tasks.synth.generator import asker, endpoint_of, holder, open_generator
from tasks.synth.made import RANDOM, made_once, write_made, write_manifest
from tasks.synth.prompts import Prompts, own_suite, read_prompts

NO_PROMPTS = "as given"
"""Prompts are those of the source; there is no wording of ours around them."""


def rejection(config: SynthConfig, place: Workspace) -> Done:
    """Answers that pass, found or made now.

    Raises:
        DataError, EvalError, ModelError, TemplateError: an input or the generator cannot be used, too many requests
            fail, or no answer passes.
    """
    return made_once(config, place, lambda out: _make(config, place, out))


def _make(config: SynthConfig, place: Workspace, out: Path) -> Mapping[str, object]:
    from eval_suites.verifiers.named import verifiers_of

    section = config.reject
    assert section is not None
    judge = endpoint_of(section.verify.judge.endpoint, place) if section.verify.judge else None
    verifiers = verifiers_of(section.verify, own_suite(config), place.mirror, judge)
    prompts = read_prompts(config, place, verifiers, holder(config, place))
    opened = open_generator(config.generator, config.seed, place)
    longest = config.generator.max_new_tokens
    said = asker(opened, config.generator)(
        [Asked(one.messages, longest, number, one.tools) for one in prompts.asked for number in range(section.samples)],
        config.name)
    found = sampled(prompts.asked, said, verifiers, section, config.seed)
    who, summary = word(opened.generator.name), summarised(found, len(prompts.asked), section,
                                                           sum(one.tokens for one in said))
    write_made(out, [_row(prompts.asked, one, who) for one in found.outcomes if one.why == KEPT],
               _left(prompts, found.outcomes), summary.lines())
    write_rows(out / RANDOM, [_row(prompts.asked, found.outcomes[at], who) for at in found.baseline])
    usage = opened.usage | ({"judge": judge.usage} if judge else {})
    return write_manifest(out, config, opened.generator.name, usage, NO_PROMPTS,
                          _report(summary, prompts, found.outcomes, verifiers))


def _row(asked: Sequence[Prompted], one: Outcome, who: str) -> dict[str, Any]:
    prompted = asked[one.prompt]
    return row_of([*prompted.messages, _answer(prompted, one.text)], prompted.tools, {
        "generator": who, "prompt": prompted.id, "sample": one.number, "scores": dict(one.scores)})


def _answer(prompted: Prompted, text: str) -> dict[str, Any]:
    """Calls as calls, so that a template writes them in its own dialect."""
    found = parse_calls(text) if prompted.tools else None
    if found is None or not found.calls:
        return {"role": "assistant", "content": text}
    calls = [{"type": "function", "function": {"name": one.name, "arguments": json.dumps(one.arguments,
                                                                                         ensure_ascii=False)}}
             for one in found.calls]
    return {"role": "assistant", "content": found.rest, "tool_calls": calls}


def _left(prompts: Prompts, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Prompts that were not asked, and answers that are not kept."""
    yield from ({"prompt": one.prompt, "why": one.why, "detail": one.detail} for one in prompts.left)
    for one in outcomes:
        if one.why != KEPT:
            prompted = prompts.asked[one.prompt]
            yield {"prompt": prompted.id, "sample": one.number, "why": one.why, "detail": one.detail,
                   "asked": prompted.messages[-1].get("content"), "answer": one.text, "scores": dict(one.scores)}


def _report(summary: Summary, prompts: Prompts, outcomes: Sequence[Outcome], verifiers: Sequence[Verifier]
            ) -> dict[str, Any]:
    scores = {one.name: [outcome.scores[one.name] for outcome in outcomes if one.name in outcome.scores]
              for one in verifiers}
    return {
        **{name: value._asdict() if isinstance(value, Interval) else value
           for name, value in summary._asdict().items()},
        "prompts_left_out": dict(Counter(one.why for one in prompts.left).most_common()),
        "scores": {name: {"answers": len(found), "least": min(found), "mean": fmean(found), "most": max(found)}
                   for name, found in scores.items() if found},
        "lines": [*summary.lines(), *([f"prompts that were not asked: {_tally(prompts)}"] if prompts.left else [])]}


def _tally(prompts: Prompts) -> str:
    return ", ".join(f"{why} {number}" for why, number in Counter(one.why for one in prompts.left).most_common())
