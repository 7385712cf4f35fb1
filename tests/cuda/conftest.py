"""The device that is not there (pseudo.py), and what is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sft_core.config.data import ModelSection
from sft_core.train.inputs import TrainInputs
from tests.cuda.ledger import Ledger
from tests.cuda.pseudo import pseudo_cuda


@pytest.fixture
def device() -> Iterator[Ledger]:
    """torch finds a CUDA device for the length of a test."""
    with pseudo_cuda() as ledger:
        yield ledger


@pytest.fixture(scope="session")
def inputs(tiny_base: Path, prepared: Path) -> Callable[..., TrainInputs]:
    """Base and data of a run on the device: packed rows; device, precision and attention as they are chosen there."""
    plain = TrainInputs(prepared, ModelSection(path=str(tiny_base)), max_tokens=32, pack=True, seed=7)

    def make(**model: str) -> TrainInputs:
        return replace(plain, model=plain.model.model_copy(update=model))

    return make
