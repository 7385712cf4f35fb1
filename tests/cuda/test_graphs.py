"""`train.compile` makes each layer a graph once, whatever lines come: what they hold is no constant of the graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sft_core.model.attention import NAMES, Backend, hidden_of, layers_of
from sft_core.model.segments import line_of, register
from tests.cuda.kernels import cuda_kernels

CPU = torch.device("cpu")
LINES = 14


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with cuda_kernels():
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("way", "graphs"), [("varlen", 2), ("segments", 6)])
def test_lines_of_any_lengths_share_their_graphs(way: Backend, graphs: int, make_llama: Callable[..., Any]) -> None:
    """varlen: one graph, and at most one more where a first length is also one of the model's own sizes. `segments` is
    no part of a graph, so a layer is cut into some; a line of one segment has its own, as sizes of 1 always do."""
    register()
    model = make_llama(num_hidden_layers=1)
    model.set_attn_implementation(NAMES[way])
    counter = CompileCounter()
    for layer in layers_of(model):
        layer.compile(backend=counter, dynamic=True)
    draw = random.Random(0)
    for _ in range(LINES):
        lengths = [draw.randint(3, 20) for _ in range(draw.randint(1, 9))]
        segments = torch.cat([torch.full((n,), at) for at, n in enumerate(lengths)])[None]
        positions = torch.cat([torch.arange(n) for n in lengths])[None]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = hidden_of(model, segments + 4, positions, line_of(segments, CPU, way == "segments"))
        hidden.float().square().sum().backward()
    assert 0 < counter.frame_count <= graphs
