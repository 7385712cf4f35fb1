"""How it is trained: optimiser, adapters, replay, KL, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.data import SourceSection
from sft_core.config.evaluate import Suites, suite_name
from sft_core.config.section import Positive, Section, Share


class OptimSection(Section):
    name: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """`adamw`: all parameters (Loshchilov & Hutter 2019); `adamw_8bit`: the same with moments in 8 bits (Dettmers et
    al. 2022), 2 bytes a weight instead of 8, with the extra `qlora`; `muon`: the matrices of the layers by Muon (Jordan
    et al. 2024), embeddings, head, norms and biases by AdamW, as its authors do. For `method: full`: the factors of an
    adapter are not the matrices whose update it makes orthogonal."""
    lr: Annotated[float, Field(gt=0.0)]
    """Peak learning rate. No default: it is the number that matters most."""
    muon_lr: Annotated[float, Field(gt=0.0)] | None = None
    """Muon's peak rate; by default `lr`. Its updates are scaled to the size of AdamW's, so that one rate fits both (Liu
    et al. 2025, Muon is scalable for LLM training, section 2.2)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay on matrices; vectors are never decayed."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """Course of the learning rate after warm-up; linear and cosine end at zero; `wsd` (warm-up, stable, decay) stays at
    its peak until the last `decay_share` of the steps and then falls to zero in a line."""
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of all steps over which `wsd` decays; the other schedules do not read it."""
    warmup_share: Share = 0.05
    """Share of all steps over which the rate rises linearly from zero."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm to clip at."""

    @model_validator(mode="after")
    def _muon_lr_has_muon(self) -> OptimSection:
        if self.muon_lr is not None and self.name != "muon":
            raise ValueError(f"optim.muon_lr is the rate of optim.name: muon, and this is {self.name}; set name: muon, "
                             "or leave muon_lr out")
        return self


class LoraSection(Section):
    rank: Positive = 8
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names, or `all-linear`. Embedding and head that are tied take no adapters: see `modules_to_save`."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full besides the adapters. Tokens that the template adds to the vocabulary bring the embedding
    and the head with them; where these are tied, either of them brings the other."""
    rslora: bool = False
    """Scale by alpha / √rank instead of alpha / rank (Kalajdzievski 2023), for ranks above about 32."""
    dora: bool = False
    """Learn magnitude and direction apart (Liu et al. 2024): slower, often better at low rank."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4`: hold the frozen base in 4 bits (QLoRA, Dettmers et al. 2023); with the extra `qlora`. Slow on a
    CPU. The adapter is merged into the whole base: what that changes is measured and told."""


class ReplaySection(Section):
    lambda_: Annotated[float, Field(ge=0.0, alias="lambda")] = 0.0
    """Weight λ of the language-model loss on raw replay text; 0 switches it off."""
    sources: tuple[SourceSection, ...] = ()
    """Raw text. Needed when `lambda` > 0 or `kl.on` includes replay."""
    tokens_per_step: Positive = 512
    """Replay tokens per optimiser step, rounded up to whole rows."""


KlReference = Literal["copy", "offload", "cache"]
SaveDtype = Literal["auto", "float32", "base"]


class KlSection(Section):
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight β of KL(tuned ‖ base), added to the loss that is minimised; 0 switches it off."""
    on: Literal["assistant", "replay", "both"] = "replay"
    """Positions that the KL looks at: trained assistant tokens, replay tokens, or both."""
    direction: Literal["reverse", "forward"] = "reverse"
    """`reverse`: KL(tuned ‖ base), keeps the tuned model within what the base would say; `forward`: KL(base ‖ tuned),
    keeps everything that the base would say."""
    reference: KlReference = "copy"
    """Where the base comes from. `copy`: a frozen second model, in the compute precision (adapters need none: they
    are switched off); `offload`: the copy stays in main memory; `cache`: the base's last hidden states at trained
    positions, computed once per base and data and reused over epochs and trials, and its LM head; the KL is as exact
    as with `copy`."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of examples that the term looks at, `train` and `replay`; none where it is off."""
        looked_at = {"assistant": ("train",), "replay": ("replay",), "both": ("train", "replay")}
        return looked_at[self.on] if self.beta > 0 else ()


class ProbeSection(Section):
    suites: Suites = ()
    """Suites that are run on the model under training after every validation: learning curves, early stopping."""
    items: Positive = 32
    """Items per task and probe: a fixed sample."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the suites are called."""
        return tuple(map(suite_name, self.suites))


class StoppingSection(Section):
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many validations in a row without a new best; 0: never. The best weights are the ones saved."""
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    """A new best must be better by this much (nats, or share of a suite's score)."""
    metric: str = "validation_loss"
    """What is to be best: `validation_loss`, or the score of one of `probe.suites`."""


TRL_TRAINS = frozenset({"engine", "method", "epochs", "rows_per_step", "micro_rows", "optim", "lora",
                        "checkpoint_every_s", "keep_checkpoints", "validate_every_steps", "save_dtype",
                        "interpolate", "gradient_checkpointing"})
"""Fields of TrainSection that `engine: trl` carries out; of `replay` and `kl` it accepts only that they are off."""


NO_WEIGHT = {"checkpoint_every_s", "keep_checkpoints", "micro_rows", "micro_tokens", "compile",
             "gradient_checkpointing", "processes", "machines", "shard"}
"""Fields of TrainSection that change no weight beyond rounding: how often a run is saved, how its steps are cut into
forward passes and dealt out to processes."""


class TrainSection(Section):
    engine: Literal["native", "trl"] = "native"
    """`native`: the platform's own loop; `trl`: TRL's SFTTrainer on the same examples (extra `trl`), no λ, no β."""
    method: Literal["full", "lora"] = "full"
    """Train all weights, or low-rank adapters."""
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    """Passes over the training rows; a fraction ends inside the last pass."""
    rows_per_step: Positive = 8
    """Rows (of `data.max_tokens` tokens when packed) in one optimiser step."""
    tokens_per_step: Positive | None = None
    """Instead of `rows_per_step`: an optimiser step takes rows until it has at least so many tokens."""
    micro_rows: Positive = 8
    """Rows in one forward pass; gradients accumulate up to the whole step. The result does not depend on it."""
    micro_tokens: Positive | None = None
    """Instead of `micro_rows`: a forward pass takes rows as long as they have at most so many tokens (one at least)."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """What trained matrices are held in. `bfloat16`: they and their gradients take half, are moved in float32 and
    rounded stochastically; for `method: full` where float32 does not fit. docs/TRAINING.md has what it costs."""
    average: Literal["token", "example"] = "token"
    """`token`: every trained token of a step counts the same; `example`: each example does, however long its answer."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """ε: share of the target probability that is spread evenly over the vocabulary."""
    optim: OptimSection
    """Optimiser and schedule."""
    lora: LoraSection = LoraSection()
    """Adapter shape; read when `method` is `lora`."""
    replay: ReplaySection = ReplaySection()
    """λ · LM loss on raw text."""
    kl: KlSection = KlSection()
    """β · KL to the base model."""
    checkpoint_every_s: Annotated[float, Field(gt=0.0)] = 300.0
    """Save a resumable checkpoint at the first step after so many seconds (and on SIGTERM or Ctrl-C). Training goes on
    while it is written. From one second on, checkpoints come less often where they would hold training up for more than
    5 % of the time, or be written in more than half of it; that is said."""
    keep_checkpoints: Positive = 2
    """How many checkpoints stay on disk."""
    validate_every_steps: Positive = 100
    """Steps between two measurements of the validation loss (and one at the end)."""
    stopping: StoppingSection = StoppingSection()
    """Early stopping on the validation loss, or on a probe's score."""
    probe: ProbeSection = ProbeSection()
    """Small evaluations on the way."""
    save_dtype: SaveDtype = "auto"
    """Weights of the saved model. `base`: in the base's dtype, rounded to the nearest or, where that loses more than a
    tenth of the gain in validation loss, stochastically; `float32`; `auto`: as `base`, and float32 where both lose."""
    interpolate: Share = 1.0
    """How far from the base to the trained weights the model goes that is evaluated, saved and recorded (α of WiSE-FT,
    Wortsman et al. 2022): 1 is the trained model, 0.5 has half of every change. Training itself does not hang on it,
    so that further values cost an evaluation each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    compile: bool = False
    """Compile the decoder's layers with torch.compile: some minutes at the start, faster steps."""
    processes: Positive = 1
    """Processes that share every step, one per GPU (of each machine). The result does not depend on it."""
    machines: Positive = 1
    """Machines that share every step, with so many processes each. This one waits until `sft join` was said on the
    others, with the same workspace (SFT_HOME) on a disk that all of them see."""
    shard: Literal["none", "fsdp"] = "none"
    """With several processes. `none`: each holds the whole model (DDP); `fsdp`: weights, gradients and moments are
    shared out and a layer's weights gathered while it runs (FSDP2): less memory, more traffic."""

    @property
    def all_processes(self) -> int:
        """Processes that share every step, of all machines."""
        return self.processes * self.machines

    @property
    def wants_replay(self) -> bool:
        """Whether any term of the objective looks at replay text."""
        return self.replay.lambda_ > 0 or "replay" in self.kl.streams

    @model_validator(mode="after")
    def _replay_has_sources(self) -> TrainSection:
        if self.wants_replay and not self.replay.sources:
            raise ValueError(
                "replay.lambda > 0, or kl.beta > 0 with kl.on: replay or both, needs replay.sources (raw text, "
                "e.g. [{path: tiny:replay}])"
            )
        return self

    @model_validator(mode="after")
    def _settings_meet(self) -> TrainSection:
        if self.stopping.metric not in ("validation_loss", *self.probe.names):
            raise ValueError(f"stopping.metric {self.stopping.metric} is not measured; allowed are validation_loss and "
                             f"the suites under probe.suites ({', '.join(self.probe.names) or 'none'})")
        if self.probe.suites and self.all_processes > 1:
            raise ValueError("probe.suites needs processes: 1 and machines: 1; watch the validation loss instead")
        if self.optim.name == "muon" and self.method != "full":
            raise ValueError("optim.name: muon needs method: full; it makes the updates of whole matrices orthogonal, "
                             "and the factors of an adapter are none; use optim.name: adamw, or method: full")
        if self.lora.quantize != "none" and self.method != "lora":
            raise ValueError("lora.quantize needs method: lora; weights of 4 bits cannot be trained themselves")
        if self.shard == "fsdp" and self.all_processes == 1:
            raise ValueError("shard: fsdp shares the model out among processes; set processes: 2 or more, or leave "
                             "shard: none")
        if self.shard == "fsdp" and self.lora.quantize != "none":
            raise ValueError("shard: fsdp cannot cut weights of 4 bits; use shard: none or lora.quantize: none")
        if self.shard == "fsdp" and self.kl.beta > 0 and self.kl.reference == "offload":
            raise ValueError("shard: fsdp shares the base out as well and does not lend it from main memory; use "
                             "kl.reference: copy or cache")
        return self

    @model_validator(mode="after")
    def _less_memory_goes_together(self) -> TrainSection:
        if self.weights == "bfloat16" and (self.method, self.shard) != ("full", "none"):
            raise ValueError("weights: bfloat16 is for method: full with shard: none; under adapters the base is held "
                             "as its folder has it anyway, and fsdp shares float32 weights out: use weights: float32")
        if self.weights == "bfloat16" and self.optim.name == "muon":
            raise ValueError("weights: bfloat16 goes with optim.name: adamw or adamw_8bit")
        if self.optim.name == "adamw_8bit" and self.shard == "fsdp":
            raise ValueError("shard: fsdp shares moments in float32 out among the processes and cannot cut those of 8 "
                             "bits; use optim.name: adamw, or shard: none")
        return self

    @model_validator(mode="after")
    def _trl_can_do_it(self) -> TrainSection:
        if self.engine == "native":
            return self
        fields = type(self).model_fields
        beyond = [name for name in sorted(fields.keys() - TRL_TRAINS - {"replay", "kl"})
                  if getattr(self, name) != fields[name].get_default(call_default_factory=True)]
        beyond += ["replay.lambda"] * (self.replay.lambda_ > 0) + ["kl.beta"] * (self.kl.beta > 0)
        if beyond:
            raise ValueError(f"engine: trl cannot do {', '.join(beyond)}: TRL's SFTTrainer has no such term or "
                             "setting; leave them at their defaults, or use engine: native")
        if self.rows_per_step % min(self.micro_rows, self.rows_per_step):
            raise ValueError(f"engine: trl needs micro_rows that divide rows_per_step; {self.micro_rows} does not "
                             f"divide {self.rows_per_step}")
        return self
