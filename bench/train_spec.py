"""One configuration of the training bench, what one step of it amounts to, and the turns of a child process."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One optimiser step."""

    loss: float  # nats per trained token
    tokens: int  # padding excluded
    trained_tokens: int


@dataclass(frozen=True)
class Spec:
    """What a child process runs."""

    engine: str  # native or trl
    model: Path
    prepared: Path
    out: Path
    row_tokens: int
    batch_tokens: int  # of a step, about
    pack: bool
    bf16: bool
    rows_per_step: int
    micro_rows: int
    kl: str = ""  # "", exact or cached
    replay: float = 0.0  # λ
    replay_share: float = 1.0  # replay tokens over those of the chats
    method: str = "full"
    device: str = "cpu"
    lr: float = 1e-4
    checkpointing: bool = False
    compile: bool = False
    liger: bool = False  # TRL with Liger's kernels
    half_base: bool = False  # TRL alone: the weights in bfloat16, of adapters the base's

    @property
    def name(self) -> str:
        """Short and readable."""
        more = [f"kl {self.kl}"] * bool(self.kl) + [f"λ {self.replay:g}"] * bool(self.replay)
        return " ".join([self.engine, "packed" if self.pack else "rows", "bf16" if self.bf16 else "fp32", *more])

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(text: str) -> Spec:
        """What `to_json` made."""
        spec = Spec(**json.loads(text))
        return replace(spec, model=Path(spec.model), prepared=Path(spec.prepared), out=Path(spec.out))


class Turns:
    """The child's side: the parent says how many steps to make; nothing runs while it says nothing.

    Answers are JSON lines on the standard output as it was at the start; whatever libraries print goes to stderr.
    """

    def __init__(self) -> None:
        self._answers, sys.stdout = sys.stdout, sys.stderr
        self._left = 0
        self.which = 0  # of the configurations that the child was started with
        self._steps: list[dict[str, Any]] = []
        self._profiler: Any = None
        self._clock = self._cpu = 0.0

    def wait(self) -> bool:
        """Before every step; False when the parent wants no more. The clock of the step starts on return."""
        if not self._left:
            self._answer()
            order = sys.stdin.readline().split()
            if not order or order[0] == "quit":
                return False
            self._left, self.which = int(order[1]), int(order[2])
            if order[0] == "profile":
                self._profiler = _profiler()
                self._profiler.start()
        self._left -= 1
        self._clock, self._cpu = time.perf_counter(), time.process_time()
        return True

    def stop_clock(self) -> None:
        """The step is over: what follows until the next turn is the bench's."""
        self._took, self._worked = time.perf_counter() - self._clock, time.process_time() - self._cpu

    def done(self, step: Step) -> None:
        """After every step: what it was."""
        self._steps.append({"seconds": self._took, "cpu_seconds": self._worked, **step._asdict()})

    def _answer(self) -> None:
        told: dict[str, Any] = {"steps": self._steps,
                                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._profiler is not None:
            self._profiler.stop()
            told["profile"] = operations(self._profiler)
            self._profiler = None
        print(json.dumps(told), file=self._answers, flush=True)
        self._steps = []


def _profiler() -> Any:
    import torch

    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)


def operations(profiler: Any) -> list[tuple[str, list[Any], float]]:
    """(operation, shapes of its inputs, seconds of CPU time of its own), the largest first."""
    found = [(e.key, e.input_shapes, e.self_cpu_time_total / 1e6)
             for e in profiler.key_averages(group_by_input_shape=True)]
    return sorted(found, key=lambda one: -one[2])
