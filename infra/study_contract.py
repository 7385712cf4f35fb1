"""What the study of a sweep must do, whatever stands behind it; the values that go in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from infra.plans import Plan, Value

FROM = "from"
"""The note of a trial that was taken over from an earlier study: which one of which."""
POINT = "point"
"""The note of a trial whose values lie outside the space: they are known, and no sampler learns from them."""
OTHER_VERSIONS = "other_versions"
"""The note of a trial that was run with other versions than its sweep began with: what differs, in words."""
ENDED = "ended"
"""The note of a trial that was ended before its end: where and why, in words."""
NOTHING: Mapping[str, float] = MappingProxyType({})


class Aim(NamedTuple):
    """What a sweep is about, for workers that know its name alone."""

    trials: int
    """How many there are to be at the end."""
    config: str
    """The whole configuration, YAML."""
    parent: str
    """MLflow run of the sweep."""
    over: int = 0
    """How many trials were over when this was said."""
    versions: Mapping[str, str] = {}
    """What the sweep began with: code, libraries, model and data, by name."""


class TrialRow(NamedTuple):
    """A trial as the storage has it. `values` is None unless it is complete (missing is not zero)."""

    number: int
    state: str
    params: dict[str, Value]
    values: dict[str, float] | None
    notes: dict[str, str]
    excess: Mapping[str, float] = NOTHING
    """Constraint → how far beyond it the trial is, in points; at most 0 where it is kept to."""

    @property
    def broken(self) -> tuple[str, ...]:
        """The constraints that it does not keep to."""
        return tuple(name for name, beyond in self.excess.items() if beyond > 0)


class Trial(NamedTuple):
    """A trial to be run."""

    number: int
    params: dict[str, Value]
    root: int
    """The first trial that had these values where it lost its worker, and so did those behind it; else its own number.
    What is left of that one is continued."""
    same: tuple[TrialRow, ...] = ()
    """The trials with the same values that were there before it."""


class Study(Protocol):
    """One sweep in a study storage, worked on by any number of workers that come and go.

    A storage that has answered before and is away is waited for.
    """

    plan: Plan

    def begin(self, trials: int, config: str = "", parent: str = "", versions: Mapping[str, str] | None = None,
              points: Sequence[Mapping[str, Value]] = ()) -> None:
        """Say what the sweep is about, see `Aim`; workers that are there already heed it. Its versions stay those that
        were said first, as soon as a trial is complete or has a worker.

        The plan's points are queued, then `points`, then those of a grid; none that is there already.
        """

    def take_over(self, study: str, rows: Sequence[TrialRow]) -> int:
        """Add complete trials of an earlier study, which count as none of this one's; returns how many were new."""

    def versions(self) -> Mapping[str, str]:
        """What the trials that there are were run with; empty where none is complete or has a worker."""

    def queue(self, points: Sequence[Mapping[str, Value]], aim: Aim) -> None:
        """Instead of `begin`: try these points, too, each once; one that failed is tried again. There are to be as many
        trials as points and `aim.trials` more, which workers wait for."""

    def aim(self) -> Aim:
        """What was said last; ConfigError where nothing was yet."""

    def failed_in_a_row(self) -> list[TrialRow]:
        """The trials that failed since the last one that did not, and since `begin`; the latest last."""

    def join(self) -> None:
        """Become a worker, until `close`.

        Raises:
            OrchestrationError: the storage takes one worker, and there is one.
        """

    def ask(self) -> Trial | None:
        """Lease the next trial: values whose worker was lost first, else what the sampler proposes.

        Returns:
            None where all trials that are wanted are over or have a worker: one may still be lost.

        Raises:
            OrchestrationError: `join` has not been called.
        """

    def tell(self, number: int, values: Mapping[str, float] | None, notes: Mapping[str, str] | None = None,
             excess: Mapping[str, float] = NOTHING) -> bool:
        """Report a trial's objectives by name; None: it failed, as it does with a value that is no finite number, or
        was ended early where a note says so (`ENDED`): it is over and no failure.

        Args:
            number: a trial that this worker has asked for.
            values: objective → value.
            notes: kept with the trial, e.g. its MLflow run id or why it failed.
            excess: constraint → how far beyond it, in points.

        Returns:
            False where the lease was lost: the values are with another worker, and what was told is kept aside.
        """

    def lose(self, number: int, why: str) -> None:
        """Report a trial whose process was killed from outside: whoever asks next queues its values again, as those of
        a worker that was lost."""

    def lead(self, part: str) -> bool | None:
        """Lease the making of something that trials have in common.

        Args:
            part: hexadecimal digits that name it.

        Returns:
            True where it is this worker's to make, until `led`; None where it is another's; False where it is made.
        """

    def led(self, part: str, *, made: bool) -> None:
        """Give that lease back, and tell all workers where it is made."""

    def note(self, number: int, notes: Mapping[str, str]) -> None:
        """Keep notes with a trial that this worker has asked for while it is under way; nothing where its lease was
        lost."""

    def renew(self) -> None:
        """Say that this worker is there; to be called while a trial runs, at least every half minute."""

    def close(self) -> None:
        """Leave: trials that were asked for and not told are queued again."""

    def remaining(self, trials: int | None = None) -> int:
        """How many trials are not over, of so many, or of as many as are wanted. Failed ones are, except those that
        were queued again."""

    def found(self, number: int) -> TrialRow | None:
        """A trial that is over or has lost its worker; None while it runs."""

    def trials(self) -> list[TrialRow]:
        """All trials that were ever asked for, in order."""

    def pareto(self) -> list[TrialRow]:
        """Complete trials within all constraints that no other such one beats in every objective, by the first one."""
