"""What a user without this platform runs for a trial: TRL's SFTTrainer on the trial's learning rate and epochs.

    python -m bench.sweep_script BASE PREPARED TRIAL.json OUT

Only rows of whole chats, tokenised before: reading and rendering the data costs the script nothing. It knows neither
replay nor a KL term, which would cost more.
"""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from sft_core.config.file import load
from sft_core.data.examples import load_examples
from sft_core.train.course import Packing, lay_out
from sft_core.train.trl_bridge import dataset_of


def main(base: Path, prepared: Path, trial: Path, out: Path) -> None:
    """Train once and save."""
    constants.HF_HUB_DISABLE_TELEMETRY = True
    config = load(trial).config
    one_epoch = config.train.model_copy(update={"epochs": 1.0})
    examples = load_examples(prepared / "train.parquet")
    rows = dataset_of(lay_out(examples, [], one_epoch, Packing(config.data.max_tokens, False, config.seed)).sft, False)
    settings = SFTConfig(
        output_dir=str(out), num_train_epochs=config.train.epochs,
        per_device_train_batch_size=config.train.rows_per_step, learning_rate=config.train.optim.lr,
        lr_scheduler_type="linear", max_length=None, bf16=False, use_cpu=True, gradient_checkpointing=False,
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        seed=config.seed)
    trainer = SFTTrainer(model=AutoModelForCausalLM.from_pretrained(base), args=settings, train_dataset=rows,
                         processing_class=AutoTokenizer.from_pretrained(base))
    trainer.train()
    trainer.save_model(str(out))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
