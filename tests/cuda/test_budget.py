"""What a step costs beside arithmetic: kernels launched, waits of the host, copies, bytes read and written.

budget.json holds the counts. A change that adds one fails here; if it is worth it, or if it takes some away, write them
anew and look at the difference:

    python -m pytest tests/cuda/test_budget.py --renew-budget && git diff tests/cuda/budget.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_core.config.train import TrainSection
from sft_core.model.attention import Backend, switch
from sft_core.model.held import narrow
from sft_core.train.inputs import TrainInputs
from sft_core.train.objective import Term
from sft_core.train.pack import Batch
from sft_core.train.policy import Policy
from sft_core.train.reference import with_reference
from sft_core.train.step import Stepper
from sft_core.train.workbench import set_up
from tests.core.test_architectures import CASES, make_tiny
from tests.cuda.ledger import Ledger
from tests.cuda.pseudo import HERE

FILE = Path(__file__).with_name("budget.json")
WARM = 2  # steps before the one that is counted: moments are made, gradients have reached everything
STEPS: dict[str, dict[str, Any]] = {
    "full": {}, "full, weighed": {"average": "example"}, "full, mask": {"attention": "mask"},
    "full, checkpointing": {"gradient_checkpointing": True}, "full, replay": {"lambda_": 0.5},
    "full, kl copy": {"beta": 0.1, "on": "assistant"},
    "full, kl offload": {"beta": 0.1, "on": "assistant", "reference": "offload"},
    "full, kl cache": {"beta": 0.1, "on": "assistant", "reference": "cache"},
    "full, muon": {"optim": {"name": "muon", "lr": 1e-3}},
    "lora": {"method": "lora"}, "lora, kl": {"method": "lora", "beta": 0.1, "on": "assistant"},
}


PASSES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "smollm3", "gpt2",
          "gpt_neox", "opt", "falcon", "mixtral", "mixtral, bfloat16", "gpt_oss")
"""Architectures, forward and backward, two rows of two examples."""
LINES = torch.tensor([[1] * 12 + [2] * 12, [1] * 20 + [2] * 4])


@pytest.fixture(scope="module")
def budget(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, int]]]:
    """The file; a test that renews it fills in what it counts."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    yield found
    if request.config.getoption("--renew-budget"):
        FILE.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n", encoding="utf-8")


@pytest.fixture
def counted(device: Ledger, inputs: Callable[..., TrainInputs], train_section: Callable[..., TrainSection],
            tmp_path: Path) -> Callable[[str], dict[str, int]]:
    """Take a step of these settings and count it; the ledger is of this step alone."""

    def count(name: str) -> dict[str, int]:
        fields = dict(STEPS[name])
        reference = fields.pop("reference", "copy")
        given = inputs(**{key: fields.pop(key) for key in ("attention",) if key in fields})
        section = train_section(epochs=2, **fields)  # so that the step that is counted is as large as the others
        section = section.model_copy(update={"kl": section.kl.model_copy(update={"reference": reference})})
        stepper = Stepper(set_up(with_reference(given, section, tmp_path), section), section)
        for step in range(WARM):
            stepper.take(step)
        device.clear()
        stepper.take(WARM)
        return device.totals()

    return count


@pytest.mark.parametrize("name", STEPS)
def test_a_step_costs_no_more_than_it_did(name: str, counted: Callable[[str], dict[str, int]], device: Ledger,
                                          budget: dict[str, dict[str, int]], request: pytest.FixtureRequest) -> None:
    found = counted(name)
    if request.config.getoption("--renew-budget"):
        budget[name] = found
    if "offload" not in name:  # accelerate lends weight after weight, and waits for each
        assert device.waits == {"step.py:take": 1}, "one wait a step, none for a forward pass"
        assert not device.pageable
    assert not _over(name, found, budget)


def test_a_pass_costs_no_more_than_it_did(device: Ledger, budget: dict[str, dict[str, int]],
                                          request: pytest.FixtureRequest) -> None:
    for name in PASSES:
        found = _passed(name, device)
        if request.config.getoption("--renew-budget"):
            budget[f"pass, {name}"] = found
        assert not _over(f"pass, {name}", found, budget)


def _passed(name: str, device: Ledger) -> dict[str, int]:
    kind, _, low = name.partition(", ")
    model = make_tiny(kind).train()
    if low:
        narrow(model, torch.bfloat16)
    # GPT-2's own dropout of attention weights is not for a kernel of a line.
    way: Backend = "varlen" if "segments" in CASES[kind].packed and kind != "gpt2" else "mask"
    switch(model.to("cuda"), way, HERE)
    policy = Policy(model, backend=way, dtype=torch.bfloat16)
    ids = 3 + torch.arange(LINES.numel()).view_as(LINES) % 60
    batch = Batch(ids, ids, torch.cat([torch.arange(n) for n in (12, 12, 20, 4)]).view_as(LINES), LINES)
    device.clear()
    policy(policy.micro(batch), Term()).loss.backward()
    return device.totals()


def _over(name: str, found: dict[str, int], budget: dict[str, dict[str, int]]) -> str:
    over = {what: (count, budget[name][what]) for what, count in found.items() if count > budget[name][what]}
    return f"{name}: {over} (counted, budget); see the head of this file" if over else ""


def test_a_validation_waits_once(inputs: Callable[..., TrainInputs], train_section: Callable[..., TrainSection],
                                 device: Ledger) -> None:
    bench = set_up(inputs(), train_section(micro_rows=1))
    stepper = Stepper(bench, train_section(micro_rows=1))
    device.clear()
    assert stepper.validation_loss() is not None
    assert (device.totals()["waits"], device.totals()["pageable"]) == (1, 0)
