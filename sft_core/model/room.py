"""How much memory a device has left, and whether an error says that it had too little."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

CGROUP = Path("/sys/fs/cgroup")


def is_short(error: RuntimeError | MemoryError) -> bool:
    """Whether it says that memory ran out: on CUDA by its class, on the CPU by torch's words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> int:
    """Memory that a run could take now: of the CUDA device, or of this machine within its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except (OSError, ValueError):  # no control group that limits
        return free
