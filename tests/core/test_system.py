"""How busy the machine is, in numbers that can be true."""

import pytest

from infra.events import PREFIX
from sft_core.train import system
from sft_core.train.system import Meter


def test_readings_are_plausible_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(system.time, "monotonic", lambda: now[0])
    meter = Meter(every_s=10.0)
    first = meter.read()
    assert 0 <= first["cpu_utilization_percentage"] <= 100
    assert 0 < first["process_memory_usage_megabytes"] < first["system_memory_usage_megabytes"] < 1e8
    now[0] = 109.9
    assert meter.read() == {}
    now[0] = 110.0
    assert meter.read().keys() == first.keys()
    assert PREFIX["system"] == "system/"  # where MLflow's page looks for them
