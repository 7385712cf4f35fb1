"""How likely a model finds the answers of rows: behind their prompts, and alone.

Rows are rendered as for training, so that the very tokens count that would be trained, stops included. Each run of
trained tokens is asked for behind all that stands before it in its example, and alone behind no more than what the
template opens an answer with, as the authors of IFD put "### Response:" there.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from sft_core.config.data import DataSection
from sft_core.config.scores import ModelScore
from sft_core.conversation import Conversation, Rejected, Turn
from sft_core.data.curate.measure import Family, Measure, write_facts
from sft_core.data.curate.scores import Alone, Likelihood
from sft_core.progress import Progress
from sft_core.stopping import check
from sft_core.templates.render import IGNORE, Example, Renderer
from sft_core.templates.truncate import fit

TOGETHER = 1024
"""Rows whose tokens are held at once: enough for batches of equal length, few enough for long conversations."""
NOT_FINITE = "the model's logits are not finite"
NO_TOKEN = "no token is trained"


class Asked(NamedTuple):
    """How likely is `said` behind `context`? Token ids, at least one each."""

    context: tuple[int, ...]
    said: tuple[int, ...]


Nats = Callable[[Sequence[Asked]], Iterator[tuple[int, float]]]
"""Minus the log-probability of each, with its place, in any order."""


class Scorer(NamedTuple):
    """A model that reads rows as it would be trained on them."""

    renderer: Renderer
    data: DataSection  # says how long an example may be
    opening: tuple[int, ...]  # see `opening_of`
    nats: Callable[[Path], Nats]  # keeps what it computes in a folder, where a killed try finds it again


def families(names: Sequence[ModelScore], modules: tuple[str, ...], settings: object, scorer: Callable[[], Scorer]
             ) -> list[Family]:
    """What is measured for these scores.

    Args:
        modules: whose code the model's numbers hang on.
        settings: what else they hang on.
        scorer: loads the model, when the first row is to be measured.
    """
    def family(name: str, measure: Measure) -> Family:
        return Family(name, ("sft_core.data.curate.likelihood", *modules), settings,
                      lambda: partial(measure, scorer=scorer()), here=True)

    return [*([family("likelihood", _likelihoods)] if names else []),
            *([family("alone", _alone)] if "ifd" in names else [])]


def opening_of(renderer: Renderer, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What an answer stands behind when it stands alone: the BOS, where a row begins with it, and the opening of an
    answer, such as `<|im_start|>assistant`. Where the template has neither, the tokenizer's BOS, or its EOS."""
    opening = tokenizer.encode(renderer.template.opening(), add_special_tokens=False)
    bos, begins = tokenizer.bos_token_id, renderer.prompt([Turn("user", "x")])[:1]
    first = begins if begins == [bos] and opening[:1] != [bos] else []
    return (*first, *opening) or (tokenizer.eos_token_id if bos is None else bos,)


def likelihoods(conversations: Sequence[Conversation], scorer: Scorer, nats: Nats, bar: Progress) -> list[Likelihood]:
    """Of the trained tokens of each row behind what stands before them."""
    made = _summed(conversations, scorer, nats, bar, lambda one: one)
    return [Likelihood(total, tokens, why) for total, tokens, why in made]


def alone(conversations: Sequence[Conversation], scorer: Scorer, nats: Nats, bar: Progress) -> list[Alone]:
    """Of the trained tokens of each row, run by run, behind the opening of an answer."""
    made = _summed(conversations, scorer, nats, bar, lambda one: one._replace(context=scorer.opening))
    return [Alone(total) for total, _, _ in made]


def runs(example: Example) -> Iterator[Asked]:
    """The runs of trained tokens of an example, each behind all that stands before it."""
    ids, targets = example.input_ids, example.targets
    for trained, places in groupby(range(len(targets)), lambda at: targets[at] != IGNORE):
        at = list(places)
        if trained:
            yield Asked(tuple(ids[: at[0] + 1]), tuple(targets[at[0] : at[-1] + 1]))


def _summed(conversations: Sequence[Conversation], scorer: Scorer, nats: Nats, bar: Progress,
            put: Callable[[Asked], Asked]) -> list[Likelihood]:
    found: list[Likelihood] = []
    for start in range(0, len(conversations), TOGETHER):
        some = conversations[start : start + TOGETHER]
        asked, owners, whys = [], [], [NO_TOKEN] * len(some)
        for row, fitted in enumerate(fit(some, scorer.renderer, scorer.data)):
            if isinstance(fitted, Rejected):
                whys[row] = fitted.detail
                continue
            every = [put(run) for example in fitted.examples for run in runs(example)]
            asked += every
            owners += [row] * len(every)
        found += _by_row(asked, owners, whys, nats, bar)
    return found


def _by_row(asked: Sequence[Asked], owners: Sequence[int], whys: Sequence[str], nats: Nats, bar: Progress
            ) -> Iterator[Likelihood]:
    """Sums in the order of the runs, in whatever order they were computed."""
    parts: list[list[int]] = [[] for _ in whys]
    for place, row in enumerate(owners):
        parts[row].append(place)
    left, said = [len(places) for places in parts], [0.0] * len(asked)
    bar.advance(left.count(0))
    for place, value in nats(asked) if asked else ():
        check()
        said[place] = value
        left[owners[place]] -= 1
        if not left[owners[place]]:
            bar.advance()
    for row, places in enumerate(parts):
        total = math.fsum(said[place] for place in places)
        if not places or not math.isfinite(total):
            yield Likelihood(None, 0, NOT_FINITE if places else whys[row])
        else:
            yield Likelihood(total, sum(len(asked[place].said) for place in places), "")


def _likelihoods(conversations: Sequence[Conversation], out: Path, *, scorer: Scorer, bar: Progress) -> None:
    _written(out, scorer, lambda nats: likelihoods(conversations, scorer, nats, bar))


def _alone(conversations: Sequence[Conversation], out: Path, *, scorer: Scorer, bar: Progress) -> None:
    _written(out, scorer, lambda nats: alone(conversations, scorer, nats, bar))


def _written(out: Path, scorer: Scorer, measure: Callable[[Nats], Sequence[Any]]) -> None:
    kept = out.with_name(f".{out.stem}")  # of this shard alone, so that memory is bounded
    write_facts([measure(scorer.nats(kept))], out)
    shutil.rmtree(kept, ignore_errors=True)
