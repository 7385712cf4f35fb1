"""Arithmetic word problems up to 20 in one or two steps, with worked answers in the shape of GSM8K."""

from __future__ import annotations

import random
from typing import NamedTuple

from sft_core.tiny.world import PEOPLE, THINGS

LIMIT = 20
"""No number in a problem, and no result on the way, is above this."""

STARTS = (
    "{p} has {a} {t}.",
    "There are {a} {t} on the table of {p}.",
    "In the morning {p} finds {a} {t}.",
    "{p} owns {a} {t}.",
)
MORE = ("{p} gets {b} more.", "Then {q} brings {b} more.", "{q} gives {p} {b} more {t}.", "{p} buys {b} more {t}.")
LESS = ("{p} gives away {b}.", "Then {q} takes {b} of them.", "{p} loses {b} {t}.", "{p} sells {b} of the {t}.")
ASKS = ("How many {t} are there now?", "How many {t} does {p} have now?", "How many {t} are left at the end?")


class Problem(NamedTuple):
    """A question, its worked answer (`... \\n#### n`) and the number."""

    question: str
    answer: str
    result: int


def make_problem(rng: random.Random) -> Problem:
    """Draw one problem: half with one step, half with two."""
    p, q = rng.sample(PEOPLE, 2)
    words = {"p": p, "q": q, "t": rng.choice(THINGS)}
    total = rng.randint(1, LIMIT - 2)
    story = [rng.choice(STARTS).format(a=total, **words)]
    work = []
    for _ in range(rng.choice((1, 2))):
        adds = total < 2 or (total < LIMIT - 1 and rng.random() < 0.5)
        step = rng.randint(1, LIMIT - total) if adds else rng.randint(1, total)
        story.append(rng.choice(MORE if adds else LESS).format(b=step, **words))
        after = total + step if adds else total - step
        work.append(f"{total} {'+' if adds else '-'} {step} = {after}.")
        total = after
    story.append(rng.choice(ASKS).format(**words))
    return Problem(" ".join(story), f"{' '.join(work)}\n#### {total}", total)
