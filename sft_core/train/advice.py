"""What hardly anybody wants of a run, said before it starts, each with what to set instead. None of it is an error.

The bounds are wide: they find a plan that is off by a factor, not one that could be a little better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sft_core.config.data import DataSection
from sft_core.conversation import Why
from sft_core.model.load import load_config, positions_of
from sft_core.model.rotary import turning_point
from sft_core.train.memory import in_words, remedies
from sft_core.train.outlook import Outlook

FEW_STEPS = 20
"""Below so many updates neither the optimiser's moments nor the course of the rate mean much."""
WANTED_STEPS = 100
FEW_EXAMPLES = 100
FEW_HELD_OUT = 20
MANY_EPOCHS = 20
DOMINATES = 0.9
MOSTLY = 0.5
LONG_S = 600.0
"""A run that takes longer than this should not lose all of it."""
REFERENCE = (7e9, 2e-5, 0.45)
"""A usual full fine-tuning rate, and how it grows for smaller models: 2e-5 at 7 B (Taori et al. 2023, Alpaca), and
about 1e-3 for the 1 M parameters of the tiny world, a power of -0.45 between them."""
ADAPTERS = 10.0
"""Adapters take about ten times the rate of full fine-tuning (Schulman et al. 2025, LoRA Without Regret)."""
HIGHEST_USUAL = 2e-3
ABOVE, BELOW = 10.0, 20.0
"""Factors beyond which a rate is called far off."""


class Foreseen(NamedTuple):
    """What advice is given on: the run, its data and ledger, and the seconds it takes at most, None if unknown."""

    outlook: Outlook
    data: DataSection
    ledger: Mapping[str, Any]
    seconds: float | None


def advice(seen: Foreseen) -> list[str]:
    """A sentence for each thing that is odd; none where all is usual."""
    return [said for look in LOOKS for said in look(seen)]


def usual_rate(parameters: int, method: str) -> float:
    """The order of magnitude of the peak rate for a model of this size."""
    size, rate, power = REFERENCE
    full: float = rate * (size / parameters) ** power
    return min(full if method == "full" else ADAPTERS * full, HIGHEST_USUAL)


def _mixture(seen: Foreseen) -> Iterator[str]:
    if seen.outlook.narrow:
        yield f"data.mixture: {seen.outlook.narrow}"


def _steps(seen: Foreseen) -> Iterator[str]:
    outlook, section = seen.outlook, seen.outlook.section
    if outlook.steps >= FEW_STEPS:
        return
    rows = outlook.trained.rows
    packed = f" (packed from {outlook.examples} examples)" if seen.data.pack else ""
    size = "train.tokens_per_step" if section.tokens_per_step else "train.rows_per_step"
    smaller = f"{size}: 1" if section.tokens_per_step or rows < WANTED_STEPS else f"{size}: {rows // WANTED_STEPS}"
    ways = ["let the mixture use more of the examples"] if outlook.narrow else [
        *([f"set {smaller}"] * (outlook.steps < rows)), f"set a larger train.epochs (now {section.epochs:g})",
        "give more data"]
    yield (f"only {outlook.steps} optimiser steps of {rows:,} rows{packed}: too few for a schedule to mean anything; "
           f"{', or '.join(ways)}")


def _warmup(seen: Foreseen) -> Iterator[str]:
    outlook = seen.outlook
    if outlook.steps > 1 and outlook.warmup_steps > MOSTLY * outlook.steps:
        yield (f"warm-up takes {outlook.warmup_steps} of {outlook.steps} steps, the peak rate is hardly used; set "
               f"train.optim.warmup_share (now {outlook.section.optim.warmup_share:g}) to 0.1 or less")


def _rate(seen: Foreseen) -> Iterator[str]:
    section, parameters = seen.outlook.section, seen.outlook.shape.parameters
    usual, rate = usual_rate(parameters, section.method), section.optim.lr
    if usual / BELOW <= rate <= ABOVE * usual:
        return
    how = "high" if rate > usual else "low"
    yield (f"train.optim.lr {rate:g} is far too {how} for train.method: {section.method} of {parameters / 1e6:,.0f} M "
           f"parameters, about {usual:.0e} is usual; set train.optim.lr, or search for it with `sft sweep`")


def _lost_rows(seen: Foreseen) -> Iterator[str]:
    for source in seen.ledger["sources"]:
        kept, name = source["kept"], source["source"]
        lost = Counter(source["rejected"])
        beside = lost.pop(Why.NOT_SELECTED, 0)  # asked for by number
        offered = source["read"] - beside
        if offered and kept < MOSTLY * offered:
            selected = f", without {beside:,} that data.select leaves out" if beside else ""
            (first, _), *_ = most = lost.most_common(3)
            why = ", ".join(f"{reason} {number:,}" for reason, number in most)
            yield (f"{name}: only {kept:,} of {offered:,} rows are used{selected} ({why}); read the others with `sft "
                   f"data show CONFIG --rejected`{f'; {_longer(seen)}' * (first == Why.TOO_LONG)}")
        if kept and source["truncated"] > MOSTLY * kept:
            yield f"{name}: {source['truncated']:,} of {kept:,} conversations are cut to fit; {_longer(seen)}"


def _longer(seen: Foreseen) -> str:
    """What to do about conversations that are too long, within what the model has positions for."""
    inputs, now = seen.outlook.inputs, seen.data.max_tokens
    config = load_config(inputs.model, inputs.mirror)
    most = min((one for one in (positions_of(config), turning_point(config)) if one is not None), default=None)
    if most is None or most > now:
        return f"set data.max_tokens (now {now:,}) higher{'' if most is None else f', up to {most:,} for this base'}"
    return f"this base goes no further than data.max_tokens ({now:,}): take one with more positions, or shorten them"


def _one_source(seen: Foreseen) -> Iterator[str]:
    weights = seen.outlook.data.course.sft.weighing.by_source
    tokens = {one.name: one.trained_tokens for one in seen.outlook.mixed if one.what == "source"} or {
        one["source"]: one["trained_tokens"] for one in seen.ledger["sources"] if not one["held_out"]}
    shares = {source: number * weights.get(source, 1.0) for source, number in tokens.items()}
    name = max(shares, key=lambda source: shares[source])
    if len(shares) > 1 and shares[name] > DOMINATES * sum(shares.values()):
        yield (f"{name} has {100 * shares[name] / sum(shares.values()):.0f} % of all trained tokens, by their weight: "
               f"the other {len(shares) - 1} sources hardly count; set its limit, or share or weight of the sources")


def _examples(seen: Foreseen) -> Iterator[str]:
    outlook, section = seen.outlook, seen.outlook.section
    if sum(map(len, outlook.data.course.sft.rows)) < FEW_EXAMPLES:
        more = "let the mixture use more of them" if outlook.narrow else "give more data.sources, or a larger limit"
        yield (f"{outlook.examples} training examples in {section.epochs:g} epochs: hardly anything can be learnt; "
               f"{more}")
    seen_often = {f"an example of {one.name}": float(one.most_used) for one in seen.outlook.mixed
                  if one.what == "source"} or {"every example": section.epochs}
    for what, times in seen_often.items():
        if times > MANY_EPOCHS and not section.stopping.patience:
            yield (f"{what} is seen {times:g} times, and will be learnt by heart; set train.epochs"
                   f"{' or its share' * bool(seen.outlook.mixed)} lower, or train.stopping.patience")


def _held_out(seen: Foreseen) -> Iterator[str]:
    number, share = len(seen.outlook.data.validation.examples), seen.data.validation_share
    if number < FEW_HELD_OUT and share > 0:
        yield (f"{number} examples are held out: their loss says little; set data.validation_share (now {share:g}) "
               "higher, or 0 for none")
    section = seen.outlook.section
    if section.stopping.patience and section.validate_every_steps >= seen.outlook.steps:
        yield (f"train.stopping looks every {section.validate_every_steps} steps, and the run has "
               f"{seen.outlook.steps}: it can never stop; set train.validate_every_steps lower")


def _checkpoints(seen: Foreseen) -> Iterator[str]:
    every = seen.outlook.section.checkpoint_every_s
    if seen.seconds and LONG_S < seen.seconds < every:
        yield (f"a checkpoint every {every:,.0f} s, and the run takes about {seen.seconds:,.0f} s: a killed run begins "
               "again; set train.checkpoint_every_s to 300")


def _room(seen: Foreseen) -> Iterator[str]:
    outlook = seen.outlook
    if outlook.peak > outlook.free:
        yield (f"{in_words(outlook.peak)} of memory are needed and {in_words(outlook.free)} are free on "
               f"{outlook.place.device}: "
               + remedies(outlook.inputs, outlook.section, outlook.data.course, outlook.place))
    if outlook.forecast.disk > outlook.disk_free:
        yield (f"{in_words(outlook.forecast.disk)} of disk are needed and {in_words(outlook.disk_free)} are free: free "
               "some (`sft clean` shows what takes room), or set train.keep_checkpoints lower")


LOOKS: tuple[Callable[[Foreseen], Iterator[str]], ...] = (
    _mixture, _steps, _warmup, _rate, _examples, _lost_rows, _one_source, _held_out, _checkpoints,
    _room)
