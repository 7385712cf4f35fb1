"""One experiment whole: the sections of the other files, tracking, search."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, field_validator, model_validator

from sft_core.config.constraints import Constraint, constraint, excluding
from sft_core.config.data import DataSection, ModelSection, TemplateSection
from sft_core.config.evaluate import EvalSection, GateSection, unknown_suites
from sft_core.config.reading import number
from sft_core.config.section import MOST, Name, Positive, Section, without_password
from sft_core.config.train import TrainSection


class TrackingSection(Section):
    experiment: Name = "sft"
    """MLflow experiment."""
    uri: Annotated[str, without_password("set MLFLOW_TRACKING_URI instead")] | None = None
    """MLflow tracking URI; by default MLFLOW_TRACKING_URI, which may hold a password, or SQLite in the workspace."""
    store_models: Literal["auto", "link", "copy"] = "auto"
    """How MLflow gets the model folder. `auto`: as a hard link where its artifacts are a folder on the same disk, so
    that a model is stored once, else as a copy; `link`: never as a copy, a server is only told where the model lies and
    its digest; `copy`: always as a copy. A registered model is always whole in the registry."""
    registered_model: Name | None = None
    """Register the model folder under this name in the MLflow registry."""
    sync_every_s: Annotated[float, Field(gt=0.0)] = 5.0
    """Seconds between two batches of metrics during training."""


Value = Annotated[bool | int | float | str | None, BeforeValidator(number)]
OneOrMore = BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))


class Range(Section):
    """One searched dimension: an interval (optionally on a log scale) or a list of choices."""

    low: FiniteFloat | None = None
    """Lower end, included."""
    high: FiniteFloat | None = None
    """Upper end, included."""
    log: bool = False
    """Search on a logarithmic scale."""
    choices: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    """Values to choose from instead of an interval, at least two."""
    when: dict[str, Annotated[tuple[Value, ...], OneOrMore, Field(min_length=1)]] = {}
    """Other fields and the values beside which this one is drawn, one or a list of them, e.g. `{train.method: lora}`.
    Such a field has choices of its own, or is fixed in the configuration."""

    @model_validator(mode="after")
    def _interval_or_choices(self) -> Range:
        interval = self.low is not None and self.high is not None
        if interval == (self.choices is not None):
            raise ValueError("give either low and high, or choices")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.choices is not None:
            raise ValueError("log: true is for low and high; take it out beside choices")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log: true needs low > 0")
        return self

    @field_validator("choices")
    @classmethod
    def _can_be_chosen(cls, choices: tuple[Value, ...] | None) -> tuple[Value, ...] | None:
        if choices is not None and len(choices) == 1:
            raise ValueError(f"one choice is none; add others, or take the field out of search.space and set it to "
                             f"{choices[0]!r} in the configuration")
        if choices is not None and (again := [one for at, one in enumerate(choices) if one in choices[:at]]):
            raise ValueError(f"names {', '.join(map(repr, again))} twice; take one out")
        return choices


class RungsSection(Section):
    """Looks at trials under way. Each lets a trial train on from where it is, never anew."""

    train: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (0.25,)
    """Shares of a trial's own steps after which it is looked at, the smallest first."""
    items: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (0.25,)
    """Share of every suite's items that is asked there, one for each look; a larger one holds every smaller one."""
    end: bool = True
    """End a trial that is proved hopeless there; off: measure only."""
    min_trials: Annotated[int, Field(ge=0)] = 4
    """So many trials of a sweep, the first ones, are never ended; nor is the configuration's own point."""
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Chance that anything is falsely claimed of a trial in all its looks: shared out among them, and there among the
    trials that it is compared with and the limits."""

    @model_validator(mode="after")
    def _one_after_the_other(self) -> RungsSection:
        if len(self.train) != len(self.items):
            raise ValueError(f"search.rungs.train has {len(self.train)} looks, search.rungs.items {len(self.items)}; "
                             "give one share of the items for each look")
        for field, shares in (("train", self.train), ("items", self.items)):
            if any(a > b or (a == b and field == "train") for a, b in pairwise(shares)):
                raise ValueError(f"search.rungs.{field} must rise from look to look, and is {list(shares)}")
        return self


class SearchSection(Section):
    space: dict[str, Range] = Field(min_length=1)
    """Dotted config field → range, e.g. `train.optim.lr: {low: 1e-4, high: 3e-3, log: true}`."""
    points: tuple[dict[str, Value], ...] = ()
    """Points that are tried first, behind the configuration itself, e.g. `[{train.optim.lr: 1e-3, train.epochs: 2}]`;
    what they do not name is as in the configuration."""
    start_from: tuple[Name, ...] = ()
    """Earlier studies in the same storage. Complete trials of the same configuration, constraints and versions are
    taken over with their values; else the points of their fronts are tried first."""
    alignment: tuple[str, ...] = Field(min_length=1)
    """Suites whose mean score is maximised (first objective)."""
    capability: tuple[str, ...] = Field(min_length=1)
    """Suites whose mean tax is minimised (second objective), in points."""
    constraints: tuple[str, ...] = ()
    """Limits that a trial of the front keeps to, e.g. `tax.tiny_mmlu <= 1.0`, `win.SUITE >= 5`, `tax <= 2`,
    `score.tiny_format >= 0.8`, `alignment >= 50`: points, and of `score` the tuned score as a share."""
    tolerance: Annotated[float, Field(ge=0.0)] = 1.0
    """Points below which a difference matters to nobody: a trial is proved dominated by one that is proved better in
    one objective and proved no worse by more than this in the other."""
    rungs: RungsSection | None = None
    """Look at trials before their end, and end those that are proved hopeless: `rungs: {}` takes the defaults."""
    trials: Positive = 8
    """Number of trials; `--trials` overrides it."""
    give_up_after: Positive = 3
    """The sweep stops when so many trials failed one after the other, and says what most of them failed of."""
    sampler: Literal["tpe", "nsga2", "random", "gp", "grid", "qmc"] = "tpe"
    """Optuna's sampler: `tpe` (multivariate), `nsga2`, `gp` (Gaussian process), `random`, `qmc` (Sobol), or `grid`: all
    combinations of choices. The configuration's own values come first, where they lie in the space."""
    study: Name = "sft-sweep"
    """Study name; a stopped sweep of the same name and space continues."""
    storage: Annotated[str, without_password("set SFT_STUDY_STORAGE instead")] | None = None
    """Optuna storage URL; by default SFT_STUDY_STORAGE, which may hold a password, or a journal file in the
    workspace."""
    confirm: Annotated[float, Field(ge=0.0, le=0.9)] = 0.5
    """Share of every suite that the search does not see (`eval.held_back`, where that is not set). When it is over,
    the point that it proposes and the default configuration are asked what is held back, by which nothing was chosen.
    At most 0.9, as the search needs items, too; 0: it asks everything, and nothing is confirmed."""
    interpolate: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = ()
    """Models on the way from the base to each trial on the front, e.g. `[0.25, 0.5, 0.75]` (`train.interpolate`): each
    is one more point, for an evaluation and no training."""
    seeds: Annotated[int, Field(ge=0, le=99)] = 0
    """So many times each trial on the front is trained and evaluated again, under the next seeds; its point is the mean
    over all of them."""
    other_versions: Literal["refuse", "record"] = "refuse"
    """What becomes of a worker, or of a sweep that continues, with other code, libraries (torch, transformers, peft,
    optuna, lm_eval), base model or training data than the sweep began with: `refuse`, or `record`, which notes the
    differences with each of its trials."""

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """What the constraints say."""
        return tuple(map(constraint, self.constraints))

    @field_validator("constraints")
    @classmethod
    def _spelled(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        limits = tuple(map(constraint, texts))
        said = tuple(one.text for one in limits)
        if len(set(said)) < len(said):
            raise ValueError(f"names a limit twice: {', '.join(said)}; take one out")
        if apart := excluding(limits):
            raise ValueError(f"{' and '.join(apart)} exclude each other; take one out")
        return said

    @model_validator(mode="after")
    def _starts_from_others(self) -> SearchSection:
        if self.study in self.start_from:
            raise ValueError(f"search.start_from names {self.study}, the study itself, which continues anyway; take it "
                             "out, or give search.study a new name")
        return self

    @model_validator(mode="after")
    def _searched_or_followed(self) -> SearchSection:
        for name, field, on in (("interpolate", "train.interpolate", bool(self.interpolate)),
                                ("seeds", "seed", self.seeds > 0)):
            if on and field in self.space:
                raise ValueError(f"{name} varies {field} of the best trials, and search.space has {field} as well; "
                                 "leave one of them out")
        return self

    @model_validator(mode="after")
    def _grid_of_choices(self) -> SearchSection:
        spans = [field for field, span in self.space.items() if span.choices is None]
        if self.sampler == "grid" and spans:
            raise ValueError(f"sampler: grid needs choices, and {', '.join(spans)} has an interval; list its values "
                             "(choices: […]), or take another sampler")
        return self


class ExperimentConfig(Section):
    """One experiment, or with `search` one sweep."""

    name: Name
    """Name of the run in MLflow and Prefect."""
    seed: Annotated[int, Field(ge=0, lt=MOST)] = 0
    """Seed of the split, the order of rows, initial adapters and dropout."""
    model: ModelSection
    """The base model."""
    data: DataSection
    """Training data and what is done to it."""
    template: TemplateSection = TemplateSection()
    """How conversations become text."""
    train: TrainSection
    """Training."""
    eval: EvalSection
    """Evaluation, before and after."""
    gate: GateSection = GateSection()
    """When the result is good enough."""
    tracking: TrackingSection = TrackingSection()
    """Where the run is recorded."""
    search: SearchSection | None = None
    """Search space; read by `sft sweep` only."""

    @model_validator(mode="after")
    def _gate_names_suites(self) -> ExperimentConfig:
        asked = self.eval.names
        known = {*asked, *(self.eval.judge.suites(asked) if self.eval.judge else ())}
        found = self.gate.unknown(known)
        if self.search and self.search.rungs and self.train.engine == "trl":
            raise ValueError("search.rungs pauses training at a share of its steps, which train.engine: trl cannot do; "
                             "leave search.rungs out, or use engine: native")
        if self.search:
            limited = [one.suite for one in self.search.limits if one.suite]
            found += [unknown_suites("search.constraints", limited, known),
                      unknown_suites("search.alignment", self.search.alignment, known),
                      unknown_suites("search.capability", self.search.capability, known)]
        judge = "" if self.eval.judge else "; judged suites (NAME:pairwise, NAME:graded) take eval.judge"
        if said := [one + (judge if ":pairwise" in one or ":graded" in one else "") for one in found if one]:
            raise ValueError("\n".join(said))
        return self
