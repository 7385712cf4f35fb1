"""How busy the machine is while it trains: numbers by the names that MLflow shows as system metrics."""

from __future__ import annotations

import time

import psutil  # type: ignore[import-untyped]
import torch

EVERY_S = 10.0
MEGABYTE = 1e6


class Meter:
    """Reads processor and memory of the machine, and what this process has of its GPU; the first reading is at once."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s, self._due = every_s, time.monotonic()
        psutil.cpu_percent()  # the next call says the mean since this one

    def read(self) -> dict[str, float]:
        """Percentages and megabytes by name; nothing where the last reading is not long ago."""
        if time.monotonic() < self._due:
            return {}
        self._due = time.monotonic() + self._every_s
        memory = psutil.virtual_memory()
        found = {"cpu_utilization_percentage": psutil.cpu_percent(), "system_memory_usage_percentage": memory.percent,
                 "system_memory_usage_megabytes": memory.used / MEGABYTE,
                 "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE}
        return found | (_of_gpu() if torch.cuda.is_available() else {})


def _of_gpu() -> dict[str, float]:
    """Of the one that this process trains on. Tensors: the most that they have taken so far."""
    free, total = torch.cuda.mem_get_info()
    most = torch.cuda.max_memory_allocated()
    return {"gpu_memory_usage_percentage": 100 * (total - free) / total,
            "gpu_memory_usage_megabytes": (total - free) / MEGABYTE, "gpu_tensors_megabytes": most / MEGABYTE}
