"""What a process that trains nobody may not do on CUDA: open a context, which stays beside those that train."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_core.config.data import ModelSection, TemplateSection
from tasks import pace, parity
from tasks.apart import Call
from tasks.parity import Serving
from tasks.stages import Workspace
from tests.cuda.ledger import Ledger


@pytest.fixture
def apart(device: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Calls that processes of their own would have made, which answer 1.0; no CUDA is opened in this one."""
    made: list[Call] = []

    def record(calls: list[Call]) -> list[float]:
        made.extend(pickle.loads(pickle.dumps(calls)))
        return [1.0] * len(calls)

    def refused(*_: Any) -> None:
        pytest.fail("CUDA was opened")

    for room in (pace, parity):
        monkeypatch.setattr(room, "apart", record)
    for name in ("get_device_name", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, refused)
    device.clear()
    return made


def test_a_forecast_times_its_product_elsewhere(apart: list[Call], device: Ledger, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "GPUS", tmp_path)
    assert pace.machine("cuda") == "unknown GPU"
    for bus in ("0000:1b:00.0", "0000:3c:00.0"):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n")
    assert pace.machine("cuda") == "NVIDIA H200"
    pace._product.cache_clear()
    assert [pace._product("cuda", "torch.bfloat16") for _ in range(2)] == [1.0, 1.0]
    pace._product.cache_clear()
    (call,) = apart
    assert set(call.environment) == {"CUDA_VISIBLE_DEVICES"}
    assert not any(device.totals().values())
    assert call.make() > 1e6
    assert device.launches["mm"] == pace.PRODUCTS


def test_a_certificate_loads_its_model_elsewhere(apart: list[Call], device: Ledger, tmp_path: Path) -> None:
    section = ModelSection(path="tiny")
    origin = parity._Origin(section, TemplateSection(name="chatml"))
    place = Workspace(tmp_path, None)
    assert parity._certified(section, origin, Serving(start=True), place) == 1.0
    assert parity._certified(section, origin, Serving(), place).rows  # ids alone need no weights
    assert len(apart) == 1
    assert not any(device.totals().values())
