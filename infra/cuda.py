"""Whether torch can find a CUDA device here, told without importing it: that takes seconds."""

from __future__ import annotations

import ctypes
import runpy
from importlib.util import find_spec
from pathlib import Path

from infra.settings import gpus_are_hidden
from sft_core.errors import ConfigError

DRIVER = "libcuda.so.1"


def why_no_cuda() -> str | None:
    """Why there can be no CUDA device; None where there may be one, which torch itself then says."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    built = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    if built.get("hip"):  # whose devices torch calls cuda too
        return None
    if not built["cuda"]:
        return f"torch {built['__version__']} is built without CUDA; install a build with it"
    if gpus_are_hidden():
        return "CUDA_VISIBLE_DEVICES hides all devices"
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"there is no NVIDIA driver ({DRIVER})"
    return None


def check_device(device: str) -> str:
    """The device, as the option `--device` gives it.

    Raises:
        ConfigError: it is CUDA, and there is none.
    """
    if device == "cuda" and (why := why_no_cuda()):
        raise ConfigError(f"--device cuda: {why}; or use auto or cpu")
    return device
