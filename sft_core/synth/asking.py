"""All samples that are wanted, in their order; too many failed requests are an error and not fewer rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sft_core.errors import EvalError
from sft_core.progress import progress
from sft_core.synth.contract import Asked, Generator, Said


def ask_all(generator: Generator, asked: Sequence[Asked], most_failed_share: float, label: str) -> list[Said]:
    """What was said to each, behind a progress bar.

    Raises:
        EvalError: more than that share of the requests has failed. What was answered is kept.
    """
    found: dict[int, Said] = {}
    failed: Counter[str] = Counter()
    with progress(label, len(asked), "answers") as bar:
        for place, said in generator.say(asked):
            found[place] = said
            bar.advance(1)
            if said.text is None:
                failed[said.why] += 1
                _check(failed, len(asked), most_failed_share, label)
    return [found[place] for place in range(len(asked))]


def _check(failed: Counter[str], asked: int, most_failed_share: float, label: str) -> None:
    if failed.total() > most_failed_share * asked:
        why, number = failed.most_common(1)[0]
        raise EvalError(f"{label}: {failed.total()} of {asked} requests have no answer, and "
                        f"generator.max_unanswered_share allows {most_failed_share:.0%}; {number} of them: {why}. What "
                        "was answered is kept: the same command goes on from there")
