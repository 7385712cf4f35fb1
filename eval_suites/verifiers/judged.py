"""A judge's grade of each answer, 1 to 10, by the prompts of `eval_suites/judge`."""

from __future__ import annotations

from collections.abc import Sequence

from eval_suites.backends.endpoint import Endpoint, EndpointError, Reply, Request
from eval_suites.judge.prompts import grade_prompt
from eval_suites.judge.replies import read_grade
from eval_suites.judge.talk import Talk, Unjudged
from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.base import Score
from eval_suites.verifiers.contract import Answered, Prompted, Verifier
from sft_core.config.synth import GraderSection
from sft_core.errors import EvalError

MOST_FAILED_SHARE = 0.02
"""Of a judge's requests; a judge that is away leaves no answers, and that is no finding."""


def judged(section: GraderSection, endpoint: Endpoint) -> Verifier:
    """Asks the judge; a reply without a grade, or one that was cut off, is no score."""

    def score(answered: Sequence[Answered]) -> list[Score]:
        replies = endpoint.many([Request(grade_prompt(_talk(*one)), section.max_tokens) for one in answered])
        failed = [one for one in replies if isinstance(one, EndpointError)]
        if len(failed) > MOST_FAILED_SHARE * len(replies):
            raise EvalError(f"{len(failed)} of {len(replies)} answers were not judged: {failed[0]}. What was judged is "
                            "kept: the same command goes on from there")
        return [_score(one) for one in replies]

    return Verifier("judge", section.at_least, score, ranks=True)


def _talk(prompted: Prompted, answer: str) -> Talk:
    """All that was said before stands as one question, each turn under its role where there are several."""
    turns = [(str(one["role"]), str(one.get("content") or "")) for one in prompted.messages]
    asked = turns[0][1] if len(turns) == 1 else "\n\n".join(f"[{role}] {text}" for role, text in turns)
    return Talk([asked], [without_thought(answer).strip()], [prompted.reference] if prompted.reference else [])


def _score(reply: Reply | EndpointError) -> Score:
    if isinstance(reply, EndpointError):
        return Score(None, {}, f"the judge did not answer: {reply}")
    if reply.finish_reason == "length":
        return Score(None, {}, "the judge's reply was cut off; raise reject.verify.judge.max_tokens")
    grade = read_grade(reply.text)
    return Score(None, {}, grade.why) if isinstance(grade, Unjudged) else Score(grade, {})
