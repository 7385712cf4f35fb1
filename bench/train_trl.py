"""TRL 1.16's SFTTrainer as a user would set it up for speed, on the same rows in the same order.

Nothing of ours is in its way: its own optimiser (fused AdamW), sampler, collator and loop; no logging, no checkpoints,
no gradient checkpointing (on by default in TRL, and slower). `packed` hands it whole rows with `seq_lengths` and turns
padding-free collation on, which is what its own `packing: bfd` leads to, but for rows that are the same as ours.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from huggingface_hub import constants
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.train_native import section_of
from bench.train_spec import Spec, Step
from sft_core.data.examples import load_examples
from sft_core.templates.render import IGNORE
from sft_core.train.course import Packing, Stream, lay_out
from sft_core.train.trl_bridge import dataset_of


def run(spec: Spec, turns: Any) -> None:
    """Train until `turns` (those of a child process, or others like them) want no more; one turn a step, its time from
    the end of the step before."""
    constants.HF_HUB_DISABLE_TELEMETRY = True
    examples = load_examples(spec.prepared / "train.parquet")
    stream = lay_out(examples, [], section_of(spec), Packing(spec.row_tokens, spec.pack, 0)).sft
    settings = SFTConfig(
        output_dir=str(spec.out), num_train_epochs=1000, per_device_train_batch_size=spec.micro_rows,
        gradient_accumulation_steps=spec.rows_per_step // spec.micro_rows, learning_rate=spec.lr,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential",
        max_length=None, padding_free=spec.pack, bf16=spec.bf16, use_cpu=spec.device == "cpu",
        gradient_checkpointing=spec.checkpointing, logging_strategy="no", save_strategy="no", report_to="none",
        disable_tqdm=True, dataloader_pin_memory=spec.device != "cpu", seed=0, use_liger_kernel=spec.liger)
    kernel = "flash_attention_2" if spec.device == "cuda" and find_spec("flash_attn") else "sdpa"
    dtype = torch.bfloat16 if spec.half_base else torch.float32
    lora = section_of(spec).lora
    adapters = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec.model, dtype=dtype, attn_implementation=kernel),
        args=settings, train_dataset=dataset_of(stream, spec.pack),
        processing_class=AutoTokenizer.from_pretrained(spec.model),
        peft_config=adapters if spec.method == "lora" else None)
    trainer.add_callback(_Watch(trainer, stream, turns))
    trainer.train()


class _Watch(TrainerCallback):
    """Hands the turn back after every step."""

    def __init__(self, trainer: Any, stream: Stream, turns: Any) -> None:
        self._loss, trainer.compute_loss = trainer.compute_loss, self._kept
        self._stream, self._turns, self._losses = stream, turns, []

    def _kept(self, *args: Any, **kwargs: Any) -> Any:
        loss = self._loss(*args, **kwargs)
        self._losses.append(loss.detach())
        return loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = not self._turns.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._turns.stop_clock()
        steps = len(self._stream.steps)
        parts = [self._stream.examples[i] for row in self._stream.step((state.global_step - 1) % steps) for i in row]
        loss, self._losses = float(sum(self._losses)), []
        self._turns.done(Step(loss, sum(len(p.input_ids) for p in parts),
                              sum(t != IGNORE for p in parts for t in p.targets)))
        control.should_training_stop = not self._turns.wait()
