"""Where the constants of the core come from: the head's loss and short attention, against what torch has.

    python -m bench.kernels [--threads N] [--repeats N]

Head: cross-entropy with gradients of 2,048 hidden states, by train.objective, by F.cross_entropy over whole logits,
by F.linear_cross_entropy in chunks, and by chunks that are recomputed in the backward pass. Attention: forward and
backward of one group of equal segments, by model.segments and by torch's flash kernel one segment after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sft_core.model import segments
from sft_core.train.objective import Term, sums

POSITIONS = 2048
HEADS = {"8k": (8_192, 256), "49k": (49_152, 448)}  # vocabulary, hidden
CHUNK = 256
SEGMENTS = ((16, 60), (8, 120), (4, 240), (2, 480), (1, 960), (1, 2048))  # how many, tokens of each


def in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of every way, taken in turn so that all meet the same noise; one round goes before."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if at:
                took[name].append(1e3 * (time.perf_counter() - began))
    return {name: median(times) for name, times in took.items()}


def head_ways(vocabulary: int, hidden: int, half: bool) -> dict[str, Callable[[], object]]:
    """Ways to the loss of a head and its gradients."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(hidden, vocabulary, bias=False)
    states = torch.randn(POSITIONS, hidden, generator=generator)
    targets = torch.randint(vocabulary, (POSITIONS,), generator=generator)

    def recomputed(x: Tensor) -> Tensor:
        def part(h: Tensor, t: Tensor) -> Tensor:
            return F.cross_entropy(head(h).float(), t, reduction="sum")

        return sum((checkpoint(part, x[at:at + CHUNK], targets[at:at + CHUNK], use_reentrant=False)
                    for at in range(0, POSITIONS, CHUNK)), torch.zeros(()))

    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": lambda x: sums(x, head, targets, Term()).loss,
        "whole": lambda x: F.cross_entropy(head(x).float(), targets, reduction="sum"),
        "linear_cross_entropy": lambda x: F.linear_cross_entropy(
            x, head.weight, targets, reduction="sum", options=nn.LinearCrossEntropyOptions()),
        "recomputed": recomputed}

    def timed(loss: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            x = states.clone().requires_grad_()
            head.weight.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = loss(x)
            found.backward()

        return run

    return {name: timed(loss) for name, loss in losses.items()}


def attention_ways(count: int, tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Ways through attention over `count` segments of `tokens` tokens, 8 heads of 32."""
    shape = (1, 8, count * tokens, 32)
    query, key, value = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
    numbers = torch.arange(count).repeat_interleave(tokens)[None] + 1
    line = segments.line_of(numbers, torch.device("cpu"), by_hand=True)
    module = nn.Identity()

    def run(limit: int) -> Callable[[], object]:
        def way() -> object:
            segments.LONG[dtype] = limit
            out, _ = segments.segment_attention(module, query, key, value, None, line=line)
            return torch.autograd.grad(out.sum(), (query, key, value))

        return way

    return {"grouped": run(tokens), "torch": run(0)}


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name, (vocabulary, hidden) in HEADS.items():
        for half in (False, True):
            took = in_turn(head_ways(vocabulary, hidden, half), given.repeats)
            print(f"head {name} {'bf16' if half else 'fp32'}: " + ", ".join(f"{k} {v:.0f} ms" for k, v in took.items()))
    for dtype in (torch.float32, torch.bfloat16):
        for count, tokens in SEGMENTS:
            took = in_turn(attention_ways(count, tokens, dtype), given.repeats)
            print(f"attention {count} x {tokens} {str(dtype).removeprefix('torch.')}: "
                  + ", ".join(f"{k} {v:.1f} ms" for k, v in took.items()))


if __name__ == "__main__":
    main()
