"""How it is trained: optimiser, adapters, replay, KL, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sft_core.config.data import SourceSection
from sft_core.config.section import Positive, Section, Share


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


TRL_TRAINS = frozenset({"engine", "method", "epochs", "rows_per_step", "micro_rows", "optim", "lora",
                        "checkpoint_every_s", "keep_checkpoints", "validate_every_steps", "gradient_checkpointing"})
"""Fields of TrainSection that `engine: trl` carries out; of `replay` and `kl` it accepts only that they are off."""


class TrainSection(Section):
    engine: Literal["native", "trl"] = "native"
    """`native`: the platform's own loop; `trl`: TRL's SFTTrainer on the same examples (extra `trl`), no λ, no β."""
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
