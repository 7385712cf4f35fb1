"""What each form of the stored weights keeps of a fine-tune's gain, on a model and rows of your own.

    python -m bench.rounding MODEL ROWS [--method lora] [--lr 1e-5] [--epochs 1]

MODEL is a folder (bf16, say), ROWS a file of any shape that `data.sources` takes; a quarter of the rows is held out.
One training run in float32, whose weights are then stored in every form and read back: nearest and stochastic in the
base's dtype, and float32. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sft_core.config.data import DataSection, ModelSection, TemplateSection
from sft_core.config.train import TrainSection
from sft_core.data.curate.chain import curate_here
from sft_core.data.prepare import prepare
from sft_core.train import rounding, saving
from sft_core.train.finish import TrainReport
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train


class Forms:
    """Stands in front of the reading back and notes what was written."""

    def __init__(self, model: Path) -> None:
        self.model, self.base, self.seen = model, load_file(model / "model.safetensors"), []
        self._read_back = saving._read_back

    def __call__(self, folder: Path, *rest: Any) -> Any:
        file = folder / "model.safetensors"
        new = load_file(file)
        moved = sum(int((new[name].float() != old.float()).sum()) for name, old in self.base.items())
        self.seen.append({"weights_changed": moved / sum(old.numel() for old in self.base.values()),
                          "bytes": file.stat().st_size})
        return self._read_back(folder, *rest)


def fine_tune(forms: Forms, rows: str, section: TrainSection, max_tokens: int = 512) -> TrainReport:
    """One run; no form is taken as good enough, so that all are tried."""
    data = DataSection.model_validate({"sources": [{"path": rows}], "validation_share": 0.25,
                                       "max_tokens": max_tokens, "too_long": "drop"})
    with (tempfile.TemporaryDirectory() as work, mock.patch.object(saving, "_read_back", forms),
          mock.patch.multiple(rounding, LOST=-1.0, NOISE=-1.0)):
        prepared = Path(work) / "data"
        prepared.mkdir()
        prepare(data, TemplateSection(), tokenizer=AutoTokenizer.from_pretrained(forms.model), replay=(), eval_items=(),
                curated=curate_here(data, (), Path(work) / "curated"), seed=0, mirror=None, out=prepared)
        base = ModelSection(path=str(forms.model), device="cpu", precision="float32")
        return train(TrainInputs(prepared, base, max_tokens, True, 0), section, Path(work) / "run")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("bench.rounding", description="What each form of stored weights keeps.")
    parser.add_argument("model", type=Path)
    parser.add_argument("rows")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--epochs", type=float, default=1.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    section = TrainSection.model_validate({
        "method": asked.method, "epochs": asked.epochs, "rows_per_step": 2, "micro_rows": 2, "optim": {"lr": asked.lr},
        "lora": {"rank": 16, "alpha": 32.0}, "validate_every_steps": 1000})
    forms = Forms(asked.model)
    report = fine_tune(forms, asked.rows, section)
    stored = report.stored
    gain = stored.base - stored.trained
    print(json.dumps({
        "method": asked.method, "lr": asked.lr, "steps": report.steps, "trained_tokens": report.trained_tokens,
        "base": stored.base, "trained": stored.trained, "merge_gap": stored.merge_gap, "seconds": report.seconds,
        "forms": {name: {"loss": loss, "gain_kept": (stored.base - loss) / gain, **seen}
                  for (name, loss), seen in zip(stored.tried.items(), forms.seen, strict=True)}}, indent=1))


if __name__ == "__main__":
    main()
