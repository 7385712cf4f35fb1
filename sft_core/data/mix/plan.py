"""Examples, labels and `data.mixture` → how often each example is used in each epoch, and what that amounts to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from sft_core.config.mixture import MixtureSection, SourceMixSection
from sft_core.data.mix.draw import Whole, line_up, parts_of, places, times
from sft_core.data.mix.labels import Labels
from sft_core.data.mix.shares import Limit, source_shares, within
from sft_core.errors import DataError
from sft_core.templates.render import IGNORE, Example

NARROW = 0.5
"""An epoch below this share of what sources could give it is told of."""
MORE = 1.5
"""A setting that makes an epoch larger by less than this factor is no remedy for a small one."""


class Mixing(NamedTuple):
    """What the configuration says of a mixture."""

    section: MixtureSection
    sources: Mapping[str, SourceMixSection]  # by name, every one that trains

    @property
    def needs_labels(self) -> bool:
        """Whether it limits labels, so that the prepared data has to have them."""
        return bool(self.section.limits)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.section.model_dump(mode="json"),
                "sources": {name: one.model_dump(mode="json", include=set(SourceMixSection.model_fields))
                            for name, one in self.sources.items()}}


class Group(NamedTuple):
    """Examples of one source with equal labels."""

    source: str
    labels: tuple[str, ...]  # of the limited kinds of labels, in the order of MixtureSection.limits
    members: Whole  # indices of its examples
    size: int  # of its examples, in what data.mixture.by says

    def __str__(self) -> str:
        return " ".join((self.source, *self.labels))


class Mixed(NamedTuple):
    """What one source or label was, was to have, and has. Shares are of what `data.mixture.by` says."""

    what: str  # source, language, task or kind
    name: str
    examples: int  # that there are
    before: float  # share of all that there are
    wanted: tuple[float, float] | None  # least and most share; equal for a source; None where nothing is asked
    share: float  # reached, over the epochs that were asked about
    rows: int  # uses of examples in these epochs
    trained_tokens: int  # in these epochs
    used: int  # examples that were used at all
    most_used: int  # how often the one that was used most

    def __str__(self) -> str:
        """One line for a person."""
        least, most = self.wanted or (0.0, 1.0)
        wanted = [f"{100 * least:.1f} % wanted"] if least == most else [
            *([f"at least {100 * least:.1f} % wanted"] if least > 0 else []),
            *([f"at most {100 * most:.1f} % wanted"] if most < 1 else [])]
        there = f"{100 * self.before:.1f} % there"
        return (f"{self.what} {self.name}: {100 * self.share:.1f} % ({', '.join([*wanted, there])}), "
                f"{self.used:,} of {self.examples:,} examples, each up to {self.most_used:,}×")


@dataclass(frozen=True)
class Mixture:
    """How often each example is used in each epoch."""

    mixing: Mixing
    groups: tuple[Group, ...]
    parts: Whole  # [groups]: what an epoch has of each, in what data.mixture.by says
    middles: Whole  # [examples], see draw.line_up
    sizes: Whole  # [examples], in what data.mixture.by says
    trained: Whole  # [examples]: trained tokens
    columns: Mapping[str, Sequence[str]]  # source and, where they are known, labels of every example
    narrow: str = ""  # what keeps an epoch far below what there is, and what to change; empty where nothing does

    def times(self, epoch: int) -> Whole:
        """[examples]: how often each is used in this epoch (from 0)."""
        found = np.zeros(len(self.middles), dtype=np.int64)
        first = epoch if self.mixing.section.draw == "resampled" else 0
        for group, part in zip(self.groups, self.parts.tolist(), strict=True):
            found[group.members] = times(self.middles[group.members], group.size, part * first, part * (first + 1))
        return found

    def drawn(self, epoch: int) -> list[int]:
        """Indices of the examples of this epoch, each as often as it is used in it."""
        found: list[int] = np.repeat(np.arange(len(self.middles)), self.times(epoch)).tolist()
        return found

    def table(self, epochs: float) -> list[Mixed]:
        """What was wanted and what is reached in so many epochs, a part of one counted whole; sources first."""
        used = sum((self.times(epoch) for epoch in range(math.ceil(epochs))), np.zeros_like(self.sizes))
        shares = dict.fromkeys(self.mixing.sources, 0.0)
        for group, part in zip(self.groups, self.parts.tolist(), strict=True):
            shares[group.source] += part / int(self.parts.sum())
        wanted = {"source": {name: (share, share) for name, share in shares.items()}} | {
            what: {name: limit.ends for name, limit in limits.items()}
            for what, limits in self.mixing.section.limits.items()}
        return [row for what, column in self.columns.items() for row in self._rows(what, column, used, wanted)]

    def _rows(self, what: str, column: Sequence[str], used: Whole,
              wanted: Mapping[str, Mapping[str, tuple[float, float]]]) -> Iterator[Mixed]:
        names, which = np.unique(np.asarray(column, dtype=object).astype(str), return_inverse=True)
        asked = wanted.get(what, {})
        for at, name in enumerate(map(str, names)):
            mine = which == at
            share = float((self.sizes * used)[mine].sum() / max(1, (self.sizes * used).sum()))
            yield Mixed(what, name, int(mine.sum()), float(self.sizes[mine].sum() / self.sizes.sum()), asked.get(name),
                        share, int(used[mine].sum()), int((self.trained * used)[mine].sum()),
                        int((used[mine] > 0).sum()), int(used[mine].max()))
        for name in sorted(asked.keys() - set(map(str, names))):
            yield Mixed(what, name, 0, 0.0, asked[name], 0.0, 0, 0, 0, 0)


def mix(examples: Sequence[Example], labels: Labels | None, mixing: Mixing, seed: int) -> Mixture:
    """The mixture of all epochs.

    Args:
        examples: of training.
        labels: theirs; may be None where the mixture limits none.
        seed: of the order in which examples are drawn.

    Raises:
        DataError: what is asked for cannot be met; says what, what can be reached, and what to change.
    """
    section = mixing.section
    trained = np.array([len(e.targets) - e.targets.count(IGNORE) for e in examples], dtype=np.int64)
    sizes = np.maximum(trained, 1) if section.by == "tokens" else np.ones_like(trained)
    columns: dict[str, Sequence[str]] = {"source": [e.origin.source for e in examples]}
    columns |= labels._asdict() if labels else {}
    groups = _groups(columns, section, sizes)
    shares = _shares(groups, mixing)
    size = _largest(groups, shares, lambda group: _uses(group, groups, mixing))
    if section.size is not None:
        _check_size(groups, shares, mixing, section.size)
        size = section.size
    order, middles = places((e.input_ids for e in examples), seed), np.empty_like(sizes)
    for group in groups:
        middles[group.members] = line_up(order[group.members], sizes[group.members])
    return Mixture(mixing, groups, parts_of(size, shares), middles, sizes, trained, columns,
                   _narrow(groups, shares, mixing))


def _groups(columns: Mapping[str, Sequence[str]], section: MixtureSection, sizes: Whole) -> tuple[Group, ...]:
    names, which = np.unique(np.array(list(map("\0".join, zip(
        *(columns[name] for name in ("source", *section.limits)), strict=True)))), return_inverse=True)
    line = np.argsort(which, kind="stable")
    ends = [0, *np.cumsum(np.bincount(which, minlength=len(names))).tolist()]
    groups = []
    for name, (start, end) in zip(names, pairwise(ends), strict=True):
        source, *labels = str(name).split("\0")
        members = line[start:end]
        groups.append(Group(source, tuple(labels), members, int(sizes[members].sum())))
    return tuple(groups)


def _shares(groups: Sequence[Group], mixing: Mixing) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The share of every group: of its source by size, then moved as far as limits on labels ask for."""
    whole = dict.fromkeys(mixing.sources, 0)
    for group in groups:
        whole[group.source] += group.size
    counted = {name: size * mixing.sources[name].epochs for name, size in whole.items()}
    wanted = source_shares(counted, mixing.sources, mixing.section)
    shares = np.array([wanted[group.source] * group.size / whole[group.source] for group in groups])
    if not mixing.needs_labels:
        return shares
    fixed = [Limit(f"the source {name}", np.array([group.source == name for group in groups]), wanted[name],
                   wanted[name]) for name, one in mixing.sources.items() if one.share is not None and whole[name]]
    return within(shares, [*fixed, *_limits(groups, mixing.section)])


def _limits(groups: Sequence[Group], section: MixtureSection) -> Iterator[Limit]:
    for at, (what, limits) in enumerate(section.limits.items()):
        there = sorted({group.labels[at] for group in groups})
        for name, limit in limits.items():
            if name not in there:
                raise DataError(f"data.mixture limits the {what} {name}, which no training example has; there are "
                                f"{', '.join(there)}: take it out, or correct it")
            yield Limit(f"the {what} {name}", np.array([group.labels[at] == name for group in groups]), *limit.ends)


def _uses(group: Group, groups: Sequence[Group], mixing: Mixing) -> float:
    """How often an epoch that is as large as it can be may use the examples of a group."""
    source, cap = mixing.sources[group.source], mixing.section.cap
    if cap is None or source.share is not None:
        return source.epochs
    return min(source.epochs, cap / sum(one.size for one in groups if one.source == group.source))


def _largest(groups: Sequence[Group], shares: np.ndarray[tuple[int], np.dtype[np.float64]],
             uses: Callable[[Group], float]) -> int:
    """Size of the largest epoch in which no group is used more often than it may be."""
    most = min(group.size * uses(group) / share for group, share in zip(groups, shares.tolist(), strict=True) if share)
    return math.floor(most + max(1e-6, 1e-12 * most))


def _narrow(groups: Sequence[Group], shares: np.ndarray[tuple[int], np.dtype[np.float64]], mixing: Mixing) -> str:
    """Which source or label makes the largest epoch small, and what would make it larger; nothing where a size or a cap
    asks for it."""
    section = mixing.section
    there = sum(group.size for group, share in zip(groups, shares, strict=True) if share)
    size = _largest(groups, shares, lambda group: _uses(group, groups, mixing))
    full = sum(group.size * _uses(group, groups, mixing) for group, share in zip(groups, shares, strict=True) if share)
    if section.size is not None or size >= NARROW * full:
        return ""
    reach = [group.size * _uses(group, groups, mixing) / share if share else math.inf
             for group, share in zip(groups, shares.tolist(), strict=True)]
    short = [group for group, most in zip(groups, reach, strict=True) if most <= min(reach) * (1 + 1e-9)]
    amount, unit = sum(group.size for group in short), "trained token" if section.by == "tokens" else "example"
    several = len(names := _names(short, mixing)) > 1
    it = "them" if several else "it"
    ways = [f"give {it} less (data.sources.share)", *_wider(groups, mixing, size), f"take {it} out"]
    return (f"{' and '.join(names)} with {amount:,} {unit}{'s' * (amount != 1)} limit{'s' * (not several)} an epoch to "
            f"{size:,} of {there:,} {unit}s: {', '.join(ways[:-1])}, or {ways[-1]}")


def _wider(groups: Sequence[Group], mixing: Mixing, size: int) -> Iterator[str]:
    """Settings of the mixture that would make its epoch larger, each with how large."""
    def at_most(uses: Callable[[Group], float], **changed: object) -> int:
        other = mixing._replace(section=mixing.section.model_copy(update=changed))
        return _largest(groups, _shares(groups, other), uses)

    def of_itself(group: Group) -> float:
        return _uses(group, groups, mixing)

    section = mixing.section
    cooler = at_most(of_itself, temperature=1.0)
    if cooler > MORE * size:
        yield f"set data.mixture.temperature lower (1 gives {cooler:,})"
    free = at_most(of_itself, languages={}, tasks={}, kinds={})
    if free > MORE * size:
        yield f"loosen the limits on labels (none give {free:,})"
    repeated = at_most(lambda group: max(section.most_repeats, mixing.sources[group.source].epochs))
    if repeated > size:
        yield f"set data.mixture.size (most_repeats {section.most_repeats:g} allows {repeated:,})"


def _names(short: Sequence[Group], mixing: Mixing) -> list[str]:
    """What groups have in common: their source, else a label, else all of their sources."""
    sources = list(dict.fromkeys(group.source for group in short))
    common = [f"the {what} {short[0].labels[at]}" for at, what in enumerate(mixing.section.limits)
              if len({group.labels[at] for group in short}) == 1]
    return [f"the source {sources[0]}"] if len(sources) == 1 else common[:1] or [
        f"the source {name}" for name in sources]


def _check_size(groups: Sequence[Group], shares: np.ndarray[tuple[int], np.dtype[np.float64]], mixing: Mixing,
                size: int) -> None:
    def allowed(group: Group) -> float:
        return max(mixing.section.most_repeats, mixing.sources[group.source].epochs)

    for group, share in zip(groups, shares.tolist(), strict=True):
        if size * share > allowed(group) * group.size:
            unit = "trained tokens" if mixing.section.by == "tokens" else "examples"
            most = _largest(groups, shares, allowed)
            raise DataError(f"data.mixture.size {size:,} {unit} needs {size * share:,.0f} of {group}, which has "
                            f"{group.size:,}: {size * share / group.size:.1f} uses of each in an epoch, and "
                            f"most_repeats allows {allowed(group):g}; set size to at most {most:,}, give it a smaller "
                            "share, or raise most_repeats")
