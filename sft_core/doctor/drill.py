"""A run cut so small that taking its steps costs seconds, with the user's model, rows and settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sft_core.config.train import StoppingSection, TrainSection
from sft_core.data.examples import load_examples, write_examples
from sft_core.stage import read_json, write_json
from sft_core.templates.render import IGNORE, Example
from sft_core.train.course import Packing
from sft_core.train.inputs import TrainInputs

EXAMPLES, REPLAYED = 8, 4
SHORT, REPLAY_SHORT = 48, 24
"""Tokens of an example; a longer one is cut down to its end."""
STEPS = 4
NEVER = 10**9


def cut_down(inputs: TrainInputs, section: TrainSection, folder: Path) -> tuple[TrainInputs, TrainSection]:
    """The same run with a few short examples, `STEPS` steps and no checkpoint but the one that a signal asks for.

    At the end it measures the validation loss once and keeps the weights of then, exactly, in
    `checkpoints/best-N.safetensors`.

    Raises:
        DataError: the prepared data cannot be read.
    """
    found = load_examples(inputs.prepared / "train.parquet")
    shorter = sorted(found, key=lambda e: len(e.input_ids))[: max(EXAMPLES, len(found) // 2)]
    number = min(EXAMPLES, len(shorter))
    train = [shortened(shorter[at * len(shorter) // number], SHORT) for at in range(number)]
    texts = load_examples(inputs.prepared / "replay.parquet")[:REPLAYED] if section.wants_replay else []
    replay = [shortened(text, REPLAY_SHORT) for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", train[:1]), ("replay", replay)):
        write_examples(folder / f"{name}.parquet", rows)
    write_json(folder / "template.json", read_json(inputs.prepared / "template.json"))
    longest = max(len(e.input_ids) for e in (*train, *replay))
    small = replace(inputs, prepared=folder, max_tokens=2 * longest if inputs.pack else longest, kept={})
    rows_in_epoch = len(Packing(small.max_tokens, small.pack, small.seed).rows(train, "sft", 0))
    per_step = max(1, rows_in_epoch // STEPS)
    return small, section.model_copy(update={
        "engine": "native", "epochs": STEPS * per_step / rows_in_epoch, "rows_per_step": per_step,
        "tokens_per_step": None, "micro_rows": 1, "micro_tokens": None, "compile": False, "processes": 1,
        "shard": "none", "checkpoint_every_s": float(NEVER), "keep_checkpoints": 1, "validate_every_steps": NEVER,
        "stopping": StoppingSection(patience=1),
        "replay": section.replay.model_copy(update={"tokens_per_step": 1})})


def shortened(example: Example, most: int) -> Example:
    """The part of at most `most` tokens that ends with its last trained token; targets stay next to their ids."""
    last = max(at for at, target in enumerate(example.targets) if target != IGNORE)
    part = slice(max(0, last + 2 - most), last + 2)
    return Example(example.input_ids[part], example.targets[part], example.origin)
