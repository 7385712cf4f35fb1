"""A judge's grade of each answer, or of all answers of a row, 1 to 10, by the prompts of `eval_suites/judge`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from eval_suites.backends.endpoint import Endpoint, EndpointError, Reply, Request
from eval_suites.judge.prompts import grade_prompt
from eval_suites.judge.replies import read_grade
from eval_suites.judge.talk import Talk, Unjudged
from eval_suites.scorers.answer_text import without_thought
from eval_suites.scorers.base import Score
from eval_suites.verifiers.contract import Answered, Prompted, Verifier
from sft_core.config.synth import GraderSection
from sft_core.conversation import Conversation, Turn
from sft_core.data.curate.scores import Grade
from sft_core.errors import EvalError

MOST_FAILED_SHARE = 0.02
"""Of a judge's requests; a judge that is away leaves no answers, and that is no finding."""
MOST_UNGRADED_SHARE = 0.5
"""Of its replies; one that mostly gives no grade does not judge."""


def judged(section: GraderSection, endpoint: Endpoint) -> Verifier:
    """Asks the judge; a reply without a grade, or one that was cut off, is no score.

    Scoring raises EvalError where too many requests fail, or most replies are without a grade.
    """

    def score(answered: Sequence[Answered]) -> list[Score]:
        found = grades([_talk(*one) for one in answered], endpoint, section.max_tokens, "reject.verify.judge")
        failed = [one for one in found if not one.answered]
        if len(failed) > MOST_FAILED_SHARE * len(found):
            raise EvalError(f"{len(failed)} of {len(found)} answers were not judged: {failed[0].why}. What was judged "
                            "is kept: the same command goes on from there")
        replied = [one for one in found if one.answered]
        ungraded = [one for one in replied if one.value is None]
        if len(ungraded) > MOST_UNGRADED_SHARE * len(replied):
            raise EvalError(f"{len(ungraded)} of {len(replied)} replies of the judge hold no grade from 1 to 10; the "
                            f"first: {ungraded[0].why}. Name another judge in reject.verify.judge.endpoint, or, where "
                            "its replies are cut off, raise reject.verify.judge.max_tokens")
        return [Score(one.value, {}, one.why) for one in found]

    return Verifier("judge", section.at_least, score, ranks=True)


def grades(talks: Sequence[Talk], endpoint: Endpoint, max_tokens: int, field: str) -> list[Grade]:
    """What a judge says of each.

    Args:
        field: of the configuration, that says how long a judgement may be.
    """
    replies = endpoint.many([Request(grade_prompt(one), max_tokens) for one in talks])
    return [_grade(one, field) for one in replies]


def talk_of_row(conversation: Conversation) -> Talk:
    """A training row as a judge is shown it: its answers with their calls, and before each all that was said since the
    one before, each turn under its role where it is not the user's alone."""
    questions, answers = [], []
    for answer, some in groupby(conversation.turns, lambda turn: turn.role == "assistant"):
        turns = list(some)
        if answer:
            answers.append("\n\n".join(filter(None, map(_said, turns))))
        else:
            questions.append(_together([(turn.role, turn.content) for turn in turns]))
    return Talk(questions, answers, [])


def _talk(prompted: Prompted, answer: str) -> Talk:
    """All that was said before stands as one question, each turn under its role where there are several."""
    turns = [(str(one["role"]), str(one.get("content") or "")) for one in prompted.messages]
    known = [prompted.reference] if prompted.reference else []
    return Talk([_together(turns)], [without_thought(answer).strip()], known)


def _together(turns: Sequence[tuple[str, str]]) -> str:
    if [role for role, _ in turns] == ["user"]:
        return turns[0][1]
    return "\n\n".join(f"[{role}] {text}" for role, text in turns)


def _said(turn: Turn) -> str:
    calls = [f"{call.name}({call.arguments})" for call in turn.tool_calls]
    return "\n".join([*filter(None, [without_thought(turn.content).strip()]), *calls])


def _grade(reply: Reply | EndpointError, field: str) -> Grade:
    if isinstance(reply, EndpointError):
        return Grade(None, f"the judge did not answer: {reply}", answered=False)
    if reply.finish_reason == "length":
        return Grade(None, f"the judge's reply was cut off; raise {field}.max_tokens")
    grade = read_grade(reply.text)
    return Grade(None, grade.why) if isinstance(grade, Unjudged) else Grade(grade)
