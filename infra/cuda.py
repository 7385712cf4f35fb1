"""Whether torch can find CUDA devices here, told without importing it: that takes seconds."""

from __future__ import annotations

import ctypes
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from infra.settings import gpu_environment, gpus_are_hidden, listed_gpus
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.locks import try_exclusive

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


def gpus() -> int:
    """How many GPUs this process may use, told without CUDA: a process that has begun to use it cannot be forked."""
    if why_no_cuda():
        return 0
    listed = listed_gpus()
    return len(listed) if listed else len(list(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def a_gpu_alone(workspace: Path, device: str) -> Iterator[dict[str, str]]:
    """A GPU that no other worker of this workspace has, as the variables that show it alone; none on a CPU.

    Raises:
        OrchestrationError: each has its worker.
    """
    count = 0 if device == "cpu" else gpus()
    if not count:
        yield {}
        return
    for environment in map(gpu_environment, range(count)):
        if handle := try_exclusive(workspace / "locks" / f"gpu-{environment['CUDA_VISIBLE_DEVICES']}"):
            with handle:
                yield environment
            return
    raise OrchestrationError(f"each of the {count} GPUs here has a worker of its own already; start no more workers on "
                             "this machine, or set model.device: cpu")


def check_device(device: str) -> str:
    """The device, as the option `--device` gives it.

    Raises:
        ConfigError: it is CUDA, and there is none.
    """
    if device == "cuda" and (why := why_no_cuda()):
        raise ConfigError(f"--device cuda: {why}; or use auto or cpu")
    return device
