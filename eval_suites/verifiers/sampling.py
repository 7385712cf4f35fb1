"""Rejection sampling: what became of every answer, and what that says of the generator. Nothing is lost: an answer is
kept, or there is a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eval_suites.statistics.evidence import rate
from eval_suites.statistics.intervals import NO_RATE, Interval
from eval_suites.verifiers.contract import Prompted, Verdict, Verifier, verdicts
from sft_core.config.synth import RejectSection
from sft_core.synth.choose import Answer, at_random, chosen
from sft_core.synth.contract import Said
from sft_core.synth.pass_at import pass_at

KEPT = ""
UNANSWERED, EMPTY, CUT, FAILED, UNJUDGED = "unanswered", "empty", "cut", "failed", "unjudged"
"""Besides `choose.WORSE` and `choose.ALIKE`, why an answer is not kept; behind `failed:` and `unjudged:` stands the
verifier, which found it wrong, or could not tell."""
ALPHA = 0.05
MANY = 0.5
"""Share of prompts with one answer each time from which on that is told."""


class Outcome(NamedTuple):
    """One answer. `why` is empty where it is kept; `detail` is for people."""

    prompt: int
    number: int
    text: str
    why: str
    detail: str
    scores: Mapping[str, float]

    @property
    def right(self) -> bool:
        """It passed, whether it is kept or not."""
        return self.known and not self.why.startswith((EMPTY, CUT, FAILED))

    @property
    def known(self) -> bool:
        """It was given, and is right or wrong."""
        return not self.why.startswith((UNANSWERED, UNJUDGED))


class Sampled(NamedTuple):
    """All answers, prompt by prompt, and the places of those in the random baseline."""

    outcomes: list[Outcome]
    baseline: list[int]


def sampled(prompts: Sequence[Prompted], said: Sequence[Said], verifiers: Sequence[Verifier], section: RejectSection,
            seed: int) -> Sampled:
    """What became of the answers.

    Args:
        said: `section.samples` for each prompt, one prompt after the other.
        seed: of the baseline.
    """
    found = [_looked_at(at // section.samples, at % section.samples, one) for at, one in enumerate(said)]
    there = [at for at, one in enumerate(found) if one.why == KEPT]
    passed = verdicts(verifiers, [(prompts[found[at].prompt], found[at].text) for at in there])
    for at, verdict in zip(there, passed, strict=True):
        found[at] = _judged(found[at], verdict)
    ranking = [one.name for one in verifiers if one.ranks]
    spoken = [at for at, one in enumerate(found) if one.why not in (UNANSWERED, EMPTY)]
    answers = [Answer(found[at].prompt, found[at].number, found[at].text, found[at].why == KEPT,
                      tuple(found[at].scores.get(name, 0.0) for name in ranking)) for at in spoken]
    reasons = chosen(answers, section.keep, section.max_similarity)
    drawn = at_random(answers, reasons, section.keep, seed)
    for place, why in reasons.items():
        found[spoken[place]] = found[spoken[place]]._replace(why=why)
    return Sampled(found, [spoken[place] for place in drawn])


def _looked_at(prompt: int, number: int, said: Said) -> Outcome:
    text = said.text or ""
    why = UNANSWERED if said.text is None else EMPTY if not text.strip() else KEPT if said.stopped else CUT
    detail = said.why if why == UNANSWERED else f"not at its end after {said.tokens} tokens" if why == CUT else ""
    return Outcome(prompt, number, text.strip(), why, detail, {})


def _judged(one: Outcome, verdict: Verdict) -> Outcome:
    why = f"{UNJUDGED if verdict.unjudged else FAILED}:{verdict.failed}" if verdict.failed else KEPT
    return one._replace(why=why, detail=verdict.why, scores=verdict.scores)


class Summary(NamedTuple):
    """What it came to. An answer that was not given, or that nobody could judge, is neither right nor wrong: `pass_1`
    is a mean over the prompts with an answer that was judged, `pass_n` over those with `n` such, `baseline` the share
    of right ones among the judged of those drawn at random, of which there are as many as were kept."""

    prompts: int
    answers: int
    kept: int
    prompts_with_kept: int
    reasons: Mapping[str, int]
    n: int
    pass_1: Interval
    pass_n: Interval
    baseline: Interval
    tokens: int
    same_each_time: int  # prompts whose answers are all one text
    unjudged: int  # answers that a verifier could not tell of
    prompts_unknown: int  # prompts without an answer that was judged

    def lines(self) -> list[str]:
        """For a person."""
        lost = ", ".join(f"{why} {number}" for why, number in self.reasons.items()) or "none"
        note = [f"NOTE: all {self.n} answers to {self.same_each_time} of {self.prompts} prompts are one; a server that "
                "heeds no temperature gives them so (transformers' own does where the model's generation_config.json "
                "does not say do_sample: true)"] if self.n > 1 and self.same_each_time > MANY * self.prompts else []
        unknown = [f"NOTE: {self.unjudged} answers could not be judged and count as neither right nor wrong; of "
                   f"{self.prompts_unknown} of {self.prompts} prompts nothing was judged, and they are not counted"
                   ] if self.unjudged else []
        return [*note, *unknown,
                f"{self.kept} of {self.answers} answers kept, to {self.prompts_with_kept} of {self.prompts} "
                f"prompts; not kept: {lost}",
                f"pass@1 {shown(self.pass_1)}, pass@{self.n} {shown(self.pass_n)} (95 %, of {self.pass_1.items} "
                f"prompts with a judged answer and {self.pass_n.items} with {self.n})",
                *([f"of as many answers at random {shown(self.baseline)} pass; of those kept all do"]
                  if self.kept else [])]


def summarised(found: Sampled, prompts: int, section: RejectSection, tokens: int) -> Summary:
    """The numbers of a report."""
    n, right, known = section.samples, Counter[int](), Counter[int]()
    for one in found.outcomes:
        known[one.prompt] += one.known
        right[one.prompt] += one.right
    some = [prompt for prompt in range(prompts) if known[prompt]]
    drawn = [at for at in found.baseline if found.outcomes[at].known]
    reasons = Counter(one.why for one in found.outcomes if one.why != KEPT)
    kept = [one for one in found.outcomes if one.why == KEPT]
    return Summary(
        prompts, len(found.outcomes), len(kept), len({one.prompt for one in kept}), dict(reasons.most_common()), n,
        _mean(some, lambda prompt: pass_at(1, known[prompt], right[prompt])),
        _mean([prompt for prompt in some if known[prompt] == n], lambda prompt: pass_at(n, n, right[prompt])),
        _mean(drawn, lambda at: float(found.outcomes[at].right)), tokens,
        sum(len(texts) == 1 for texts in _texts(found).values()),
        sum(one.why.startswith(UNJUDGED) for one in found.outcomes), prompts - len(some))


def _texts(found: Sampled) -> dict[int, set[str]]:
    """By prompt."""
    texts: dict[int, set[str]] = {}
    for one in found.outcomes:
        texts.setdefault(one.prompt, set()).add(one.text)
    return texts


def _mean(things: Sequence[int], value: Callable[[int], float]) -> Interval:
    found = rate([value(one) for one in things])
    return found.interval(ALPHA) if found else NO_RATE


def shown(found: Interval) -> str:
    """In points of 100."""
    if found.estimate is None:
        return "not measured"
    return f"{100 * found.estimate:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
