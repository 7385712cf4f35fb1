"""A tiny random Llama and prepared data, for everything that trains. Nothing is downloaded."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.conversation import Origin
from sft_core.templates.render import IGNORE, Example
from sft_core.train.inputs import TrainInputs

# How fast examples are made says how busy the machine is, nothing about the code.
hypothesis_settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("shared machine")

NOBODY = 65534
VOCABULARY = 64
SPECIAL = ["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
JINJA = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-budget", action="store_true", help="write tests/cuda/budget.json anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of `sft up` share one platform, and each goes on from the one before: at the beginning no other process
    of xdist takes some of them over, as it does with what is left at the end."""
    items.sort(key=lambda item: item.path.name != "test_platform.py")


@pytest.fixture
def as_nobody() -> Callable[[Path], AbstractContextManager[None]]:
    """Within it this process is a user without rights, who may enter the folders above the given one but owns none."""

    @contextmanager
    def enter(folder: Path) -> Iterator[None]:
        if os.geteuid():
            yield
            return
        closed = [(p, p.stat().st_mode) for p in (folder, *folder.parents) if not p.stat().st_mode & 0o001]
        for place, mode in closed:
            place.chmod(mode | 0o011)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            for place, mode in closed:
                place.chmod(mode)

    return enter


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _environment_as_it_was() -> Iterator[None]:
    """The commands that later tests start would have what a test, or a library in it, leaves there."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands set the log up; a test of one in this process would take it from those that look at records later."""
    log = logging.getLogger("sft")
    before = log.propagate, log.level, list(log.handlers)
    yield
    log.propagate, log.level, log.handlers = before


@pytest.fixture(scope="session")
def forked() -> Callable[..., list[int | None]]:
    """`forked(work, processes)` runs `work(rank)` in forked processes that find each other as torchrun lets them.

    Returns exit codes; None of one that had to be killed because it lived 3 s longer than another, or 40 s.
    """

    def run(work: Callable[[int], None], processes: int = 2) -> list[int | None]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def begin(rank: int) -> None:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            torch.set_num_threads(1)  # renews the pool of threads before two of them may ask for it at once
            if processes > 1:
                os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                                   "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                                   "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
            work(rank)

        context = multiprocessing.get_context("fork")
        started = [context.Process(target=begin, args=(rank,)) for rank in range(processes)]
        for process in started:
            process.start()
        until, one_left = time.monotonic() + 40, False
        while (alive := sum(process.is_alive() for process in started)) and time.monotonic() < until:
            if 0 < alive < processes and not one_left:
                until, one_left = time.monotonic() + 3, True
            time.sleep(0.02)
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
            process.join()
        return codes

    return run


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., LlamaForCausalLM]:
    """A Llama of 2 layers and 64 tokens, the same for the same settings; large enough weights that nothing is flat."""

    def make(**settings: Any) -> LlamaForCausalLM:
        torch.manual_seed(0)
        shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
                 "tie_word_embeddings": True, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
                 "pad_token_id": 1, "attn_implementation": "sdpa"}
        return LlamaForCausalLM(LlamaConfig(**{**shape, **settings}))

    return make


@pytest.fixture(scope="session")
def some_example() -> Callable[..., Example]:
    """`some_example(length, trained positions, seed)`: random ids, every position trained by default."""

    def make(length: int, trained: range | None = None, seed: int = 0) -> Example:
        g = torch.Generator().manual_seed(seed * 1000 + length)
        ids = torch.randint(4, VOCABULARY, (length,), generator=g).tolist()
        wanted = range(length - 1) if trained is None else trained
        targets = [ids[i + 1] if i in wanted and i + 1 < length else IGNORE for i in range(length)]
        return Example(ids, targets, Origin("s", "f", seed + 1))

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), VOCABULARY)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w4"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[0], pad_token=SPECIAL[1],
                                   additional_special_tokens=SPECIAL[2:])


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., LlamaForCausalLM],
              tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A saved base model folder."""
    folder = tmp_path_factory.mktemp("models") / "base"
    make_llama().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_prepared() -> Callable[..., Path]:
    """Write a folder as `prepare` leaves it: learnable counting sequences, the second half of each trained."""

    def write(folder: Path, train: int = 24, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(seed)
        for name, count, trained_from in (("train", train, 0.5), ("validation", 4, 0.5), ("replay", 16, 0.0)):
            rows = []
            for line in range(1, count + 1):
                length, start, pace = rng.randint(6, 20), rng.randrange(60), rng.choice((1, 3))
                ids = [4 + (start + i * pace) % 60 for i in range(length)]
                first = max(1, int(length * trained_from))
                targets = [IGNORE] * (first - 1) + ids[first:] + [IGNORE]
                rows.append({"input_ids": ids, "targets": targets, "source": name, "file": f"{name}.jsonl",
                             "line": line})
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        (folder / "template.json").write_text(json.dumps({"name": "chatml", "stops": ["<|im_end|>"], "jinja": JINJA,
                                                           "added_tokens": []}))
        return folder

    return write


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, write_prepared: Callable[..., Path]) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def train_inputs(tiny_base: Path, prepared: Path) -> TrainInputs:
    return TrainInputs(prepared, ModelSection(path=str(tiny_base), device="cpu"), max_tokens=32, pack=True, seed=7)


@pytest.fixture(scope="session")
def train_section() -> Callable[..., TrainSection]:
    """A section from keyword overrides; `lr`, `beta` and `lambda_` are short for their nested fields."""

    def make(*, lr: float = 3e-3, beta: float = 0.0, lambda_: float = 0.0, on: str = "replay",
             **fields: Any) -> TrainSection:
        values = {"rows_per_step": 4, "micro_rows": 2, "optim": {"lr": lr},
                  "replay": {"lambda": lambda_, "sources": [{"path": "tiny:replay"}], "tokens_per_step": 48},
                  "kl": {"beta": beta, "on": on}}
        return TrainSection.model_validate({**values, **fields})

    return make
