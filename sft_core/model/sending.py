"""Tensors to the device of a run without a wait."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x`, which lies in main memory, on the device.

    CUDA copies from pinned memory while the host goes on; from any other the host waits until the copy has its turn
    (CUDA Runtime API, "API synchronization behavior").
    """
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
