"""Builds the base checkpoint of a world: tokenizer, weights, cards. One seed, one thread, the same bits.

The bits follow from the seed, the recipe, the versions of torch and transformers, and the class of machine
(which kernels its instruction set gets); all of them are on the card.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sft_core.errors import ModelError
from sft_core.tiny import chats, phrases
from sft_core.tiny.items import gsm8k_items
from sft_core.tiny.paths import BASE_FOLDER, RECIPE_NAME
from sft_core.tiny.pretrain import Progress, Recipe, batches, fresh_model, pretrain, sample_texts
from sft_core.tiny.probe import Scores, probe
from sft_core.tiny.tokens import train_tokenizer
from sft_core.tiny.world import World, make_world, stream

HASHED = ("model.safetensors", "tokenizer.json")
N_TOKENIZER_TEXTS = 8000


@dataclass(frozen=True)
class BuildReport:
    """What a build made: where, at what cost (seconds of training), how good (None if not measured), which bits."""

    folder: Path
    steps: int
    tokens: int
    parameters: int
    seconds: float
    scores: Scores | None
    sha256: dict[str, str]

    def same_bits(self, other: Path = BASE_FOLDER) -> bool:
        """Whether the card in `other` (by default the committed checkpoint) tells the same hashes."""
        return bool(self.sha256 == read_recipe(other)["sha256"])


def build(
    folder: Path,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    measure: bool = True,
) -> BuildReport:
    """Train the base of world `seed` and write it into `folder` (created; files of the same names are replaced).

    About ten minutes on one core with the default recipe. OSError if `folder` cannot be written.
    """
    recipe = recipe or Recipe()
    world = make_world(seed)
    held_out = {str(item["question"]) for item in gsm8k_items(world)}
    tokenizer = make_tokenizer(world, recipe.context)
    with _one_deterministic_thread():
        model = fresh_model(recipe, len(tokenizer), seed)
        start = time.perf_counter()
        pretrain(model, recipe, batches(recipe, world, tokenizer, held_out), progress)
        seconds = time.perf_counter() - start
        for parameter in model.parameters():  # not the buffers, which no folder holds
            parameter.data = parameter.data.to(torch.bfloat16)
        _save(folder, model, tokenizer)
        scores = probe(model, tokenizer, world) if measure else None
    report = BuildReport(
        folder=folder,
        steps=recipe.steps,
        tokens=recipe.steps * recipe.rows * recipe.context,
        parameters=model.num_parameters(),
        seconds=round(seconds, 1),
        scores=scores,
        sha256=hashes(folder),
    )
    _write_recipe(report, recipe, seed)
    return report


def make_tokenizer(world: World, context_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a world: learned from its text and from its tools, so that pieces of their JSON are tokens."""
    texts = sample_texts(world, N_TOKENIZER_TEXTS, stream(world.seed, "tokenizer"), ())
    specs = [chats.tool_spec(name) for name in phrases.TOOL]
    calls = [f"<tool_call>\n{json.dumps({'name': name, 'arguments': {}})}\n</tool_call>" for name in phrases.TOOL]
    bare = [json.dumps([one, other]) for one in specs for other in specs]
    typed = [json.dumps([{"type": "function", "function": spec}]) for spec in specs]
    return train_tokenizer([*texts, *calls * 20, *bare, *typed * 20], context_tokens)


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the weights and the tokenizer in `folder`; ModelError if one is not there."""
    missing = [name for name in HASHED if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} has no {', '.join(missing)}; build it with `sft tiny build {folder}`")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in HASHED}


def read_recipe(folder: Path) -> dict[str, Any]:
    """The card of a built folder; ModelError if there is none."""
    path = folder / RECIPE_NAME
    if not path.is_file():
        raise ModelError(f"{folder} has no {RECIPE_NAME}; build it with `sft tiny build {folder}`")
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def verify(folder: Path = BASE_FOLDER) -> dict[str, str]:
    """Compare the files of `folder` with its card and return their hashes; ModelError names the file that differs."""
    said, found = read_recipe(folder)["sha256"], hashes(folder)
    for name in HASHED:
        if said[name] != found[name]:
            raise ModelError(
                f"{folder / name} has SHA-256 {found[name][:12]}, its {RECIPE_NAME} says {said[name][:12]}; "
                f"restore it from git or build it again with `sft tiny build {folder}`"
            )
    return found


@contextmanager
def _one_deterministic_thread() -> Iterator[None]:
    """Sums in a fixed order. The settings of the process are put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone


def _write_recipe(report: BuildReport, recipe: Recipe, seed: int) -> None:
    card = {
        "seed": seed,
        "recipe": asdict(recipe),
        "tokens": report.tokens,
        "parameters": report.parameters,
        "seconds": report.seconds,
        "scores": report.scores and {name: round(value, 4) for name, value in report.scores._asdict().items()},
        "machine": {
            "processor": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "sha256": report.sha256,
    }
    (report.folder / RECIPE_NAME).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
