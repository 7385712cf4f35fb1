"""The configuration of one experiment: frozen sections, unknown keys refused, a docstring under every field.

One YAML file becomes one `ExperimentConfig`; the same models make the JSON Schema for editors and Prefect's
parameter forms. Only a section travels: no function of the core sees the whole configuration. Reading files,
line numbers and `--set` live in `sft_core/configfile.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: immutable, closed, documented by the docstrings under its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, protected_namespaces=()
    )


class ModelSection(Section):
    path: str
    """Base model: a hub id (`org/name`), a local folder, or `tiny` for the embedded base."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); part of the base's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one, the CPU otherwise."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. `auto`: bfloat16 autocast on CUDA, float32 on the CPU."""
    trust_remote_code: bool = False
    """Allow code that comes with the model. Refused unless asked for."""


class SourceSection(Section):
    path: str
    """A JSON, JSONL, CSV, Parquet or text file, a folder of them, a hub id, or `tiny:sft` / `tiny:replay`."""
    name: str | None = None
    """Name in the ledger; by default the last part of the path."""
    format: Literal["auto", "alpaca", "prompt_completion", "sharegpt", "messages", "text"] = "auto"
    """Shape of a row; `auto` detects it per file and says what it found."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column map, standard name to the file's name, e.g. `{output: response}`."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    limit: Positive | None = None
    """Read at most this many rows."""


class DuplicatesSection(Section):
    exact: bool = True
    """Drop conversations that are equal after folding case and white space; the first one stays."""
    near: bool = True
    """Drop near duplicates by MinHash over word n-grams."""
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Jaccard similarity of word 3-grams from which two conversations count as near duplicates."""


class DataSection(Section):
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    """Where the training conversations come from."""
    max_tokens: Annotated[int, Field(ge=16)]
    """Longest example, and length of a packed row, in tokens. There is no default: a silent one truncates."""
    too_long: Literal["fail", "drop", "truncate_left_context"] = "fail"
    """What to do with a longer example. `truncate_left_context` drops the oldest turns, keeps the system turn
    and never cuts an answer."""
    pack: bool = True
    """Pack several examples into one row with attention kept apart; off: one padded example per row."""
    duplicates: DuplicatesSection = DuplicatesSection()
    """Removal of exact and near duplicates."""
    decontaminate: bool = True
    """Drop conversations that contain an item of one of the evaluation suites of this run."""
    validation_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    """Share of conversations held out for the validation loss."""
    max_rejected_share: Share = 0.05
    """The run fails when more than this share of the rows read cannot be used."""


class TemplateSection(Section):
    name: Literal["auto", "model", "chatml", "alpaca"] = "auto"
    """`model`: the tokenizer's own template; `chatml`, `alpaca`: a built-in one, saved into the model folder;
    `auto`: the tokenizer's own where there is one, `chatml` otherwise."""
    train_on: Literal["all_assistant", "last_assistant"] = "all_assistant"
    """Which assistant turns are trained."""


class OptimSection(Section):
    lr: Annotated[float, Field(gt=0.0)]
    """Peak learning rate. No default: it is the number that matters most."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay (AdamW) on matrices; vectors are never decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after warm-up; linear and cosine end at zero."""
    warmup_share: Share = 0.05
    """Share of all steps over which the rate rises linearly from zero."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm to clip at."""


class LoraSection(Section):
    rank: Positive = 8
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names, or `all-linear`."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full besides the adapters, e.g. `embed_tokens` when the template's tokens are new."""


class ReplaySection(Section):
    lambda_: Annotated[float, Field(ge=0.0, alias="lambda")] = 0.0
    """Weight λ of the language-model loss on raw replay text; 0 switches it off."""
    sources: tuple[SourceSection, ...] = ()
    """Raw text. Needed when `lambda` > 0 or `kl.on` includes replay."""
    tokens_per_step: Positive = 512
    """Replay tokens per optimiser step, rounded up to whole rows."""


class KlSection(Section):
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight β of KL(tuned ‖ base), added to the loss that is minimised; 0 switches it off."""
    on: Literal["assistant", "replay", "both"] = "replay"
    """Positions that the KL looks at: trained assistant tokens, replay tokens, or both."""


class TrainSection(Section):
    method: Literal["full", "lora"] = "full"
    """Train all weights, or low-rank adapters."""
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    """Passes over the training rows; a fraction ends inside the last pass."""
    rows_per_step: Positive = 8
    """Rows (of `data.max_tokens` tokens when packed) in one optimiser step."""
    micro_rows: Positive = 8
    """Rows in one forward pass; gradients accumulate up to `rows_per_step`."""
    optim: OptimSection
    """Optimiser and schedule."""
    lora: LoraSection = LoraSection()
    """Adapter shape; read when `method` is `lora`."""
    replay: ReplaySection = ReplaySection()
    """λ · LM loss on raw text."""
    kl: KlSection = KlSection()
    """β · KL to the base model."""
    checkpoint_every_s: Annotated[float, Field(gt=0.0)] = 300.0
    """Save a resumable checkpoint at the first step after so many seconds (and on SIGTERM or Ctrl-C)."""
    keep_checkpoints: Positive = 2
    """How many checkpoints stay on disk."""
    validate_every_steps: Positive = 100
    """Steps between two measurements of the validation loss (and one at the end)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    @model_validator(mode="after")
    def _replay_has_sources(self) -> TrainSection:
        needs = self.replay.lambda_ > 0 or (self.kl.beta > 0 and self.kl.on != "assistant")
        if needs and not self.replay.sources:
            raise ValueError(
                "replay.lambda > 0, or kl.beta > 0 with kl.on: replay or both, needs replay.sources (raw text, "
                "e.g. [{path: tiny:replay}])"
            )
        return self


class EvalSection(Section):
    suites: tuple[str, ...] = Field(min_length=1)
    """Suites to run before and after training; `sft suites` lists them."""
    limit: Positive | None = None
    """Items per task, the first ones; intervals widen accordingly."""
    batch_size: Positive = 16
    """Rows per forward pass in evaluation."""
    max_new_tokens: Positive | None = None
    """Cap on generated tokens, where a suite's own should be lowered; part of the protocol."""
    include_path: str | None = None
    """Folder with further lm-eval task YAMLs; their names can be used as suites `lm:TASK`."""


class GateSection(Section):
    max_tax: Annotated[float, Field(ge=0.0)] = 1.0
    """Non-inferiority margin in points: the gate passes when every tax is proved to be at most this."""
    must_improve: tuple[str, ...] = ()
    """Suites on which the tuned model must be proved better than its base."""
    at_least: dict[str, Share] = Field(default_factory=dict)
    """Lowest accepted score per suite, e.g. `{tiny_format: 0.9}`."""
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Error probability: intervals have level 1 − alpha."""
    enforce: bool = False
    """End with exit code 3 when the gate does not pass; off: report only."""


class TrackingSection(Section):
    experiment: str = "sft"
    """MLflow experiment."""
    uri: str | None = None
    """MLflow tracking URI; by default MLFLOW_TRACKING_URI, or SQLite in the workspace."""
    registered_model: str | None = None
    """Register the model folder under this name in the MLflow registry."""
    sync_every_s: Annotated[float, Field(gt=0.0)] = 5.0
    """Seconds between two batches of metrics during training."""


class Range(Section):
    """One searched dimension: an interval (optionally on a log scale) or a list of choices."""

    low: float | None = None
    """Lower end, included."""
    high: float | None = None
    """Upper end, included."""
    log: bool = False
    """Search on a logarithmic scale."""
    choices: tuple[float | int | str, ...] | None = None
    """Values to choose from instead of an interval."""

    @model_validator(mode="after")
    def _interval_or_choices(self) -> Range:
        interval = self.low is not None and self.high is not None
        if interval == (self.choices is not None):
            raise ValueError("give either low and high, or choices")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log: true needs low > 0")
        return self


class SearchSection(Section):
    space: dict[str, Range] = Field(min_length=1)
    """Dotted config field → range, e.g. `train.optim.lr: {low: 1e-4, high: 3e-3, log: true}`."""
    alignment: tuple[str, ...] = Field(min_length=1)
    """Suites whose mean score is maximised (first objective)."""
    capability: tuple[str, ...] = Field(min_length=1)
    """Suites whose mean tax is minimised (second objective), in points."""
    trials: Positive = 8
    """Number of trials; `--trials` overrides it."""
    sampler: Literal["tpe", "nsga2", "random", "gp"] = "tpe"
    """Optuna sampler."""
    study: str = "sft-sweep"
    """Study name; a stopped sweep of the same name and space continues."""
    storage: str | None = None
    """Optuna storage URL; by default a journal file in the workspace."""


class ExperimentConfig(Section):
    """One experiment, or with `search` one sweep."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run in MLflow and Prefect."""
    seed: int = 0
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
        known = set(self.eval.suites)
        named = {"gate.must_improve": set(self.gate.must_improve), "gate.at_least": set(self.gate.at_least)}
        if self.search:
            named |= {"search.alignment": set(self.search.alignment),
                      "search.capability": set(self.search.capability)}
        for field, names in named.items():
            if missing := sorted(names - known):
                raise ValueError(f"{field} names {missing}, which eval.suites {sorted(known)} does not run")
        return self
