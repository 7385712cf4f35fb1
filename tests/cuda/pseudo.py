"""A CUDA device that is not there: arithmetic on the CPU, with tensors that say `cuda:0` and may not be mixed.

`pseudo_cuda()` makes torch find one device and yields its `Ledger`; everything is as before when it ends. A tensor is
"there" when its storage is tagged so. What CUDA refuses is refused (`MixedDevices`), what it does is counted: kernels
launched, copies, places where the host waits. What this cannot show: speed, streams, the numerics of CUDA's kernels,
the autocast list of CUDA (the CPU's is taken), several devices.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft.utils import save_and_load
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.cuda.kernels import STAND_INS, cuda_kernels
from tests.cuda.ledger import Generator, Ledger, MixedDevices, mark, place, storage

HERE = torch.device("cuda", 0)
TOTAL = 139 << 30
"""Bytes of memory that the device says it has."""
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_consecutive", "unique_dim", "_unique2",
         "bincount", "repeat_interleave"}
"""Operations whose result the host must know before it goes on."""
FREE = {"view", "_unsafe_view", "transpose", "t", "slice", "select", "detach", "alias", "expand", "permute",
        "unsqueeze", "squeeze", "as_strided", "split", "split_with_sizes", "unbind", "reshape", "_reshape_alias",
        "lift_fresh", "_local_scalar_dense", "empty_like", "empty", "new_empty", "empty_strided", "new_empty_strided"}
"""Operations that launch no kernel."""
NUMBERS = ("_foreach", "index_put", "index_fill", "masked_fill", "fill")
"""How names of operations begin that take a number as a tensor and are not elementwise."""
RANDOM = {torch.rand, torch.randn, torch.randint, torch.randperm}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy}
"""Functions that make a tensor of numbers which the host has."""


@contextmanager
def pseudo_cuda() -> Iterator[Ledger]:
    """Within it torch finds one CUDA device."""
    ledger = Ledger()
    _forget_processes()
    gc.freeze()  # what was there before need not be looked through at the end
    try:
        with pytest.MonkeyPatch.context() as patch, cuda_kernels(), _Operations(ledger), _Calls(ledger) as calls:
            _install(patch, ledger)
            _keep_in_backward(patch, calls)
            yield ledger
            gc.collect()  # what still holds on to the device lets go of it while it is there
    finally:
        gc.unfreeze()
        _forget_processes()


def there(x: Tensor) -> bool:
    """Whether a tensor lies on the device."""
    return getattr(storage(x), "there", False)


class _Operations(TorchDispatchMode):
    """Every operation that reaches a kernel: refuses mixtures, counts, and passes the tag on."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.split("::")[1], dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        flags = [there(x) for x in tensors]
        on_device = flags[0] if name == "copy_" else any(flags)
        self._ledger.check_landed(tensors[1:] if name == "copy_" else tensors, name)
        if name == "copy_" and flags[0] != flags[1]:
            func(*args)
            self._ledger.copied(tensors[int(on_device)], on_device, len(args) > 2 and bool(args[2]))
            return args[0]
        if on_device:
            self._check(func, name, tensors, flags)
            if any(argument.name == "generator" for argument in func._schema.arguments):
                kwargs["generator"] = self._ledger.dice(kwargs.get("generator"))
        out = STAND_INS.get(name, func)(*args, **kwargs)
        if on_device:
            made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            for x in made:
                _tag(x)
            if name not in FREE and not _Calls.quiet:
                self._ledger.launched(name, [*tensors, *made])
        return out

    def _check(self, func: Any, name: str, tensors: list[Tensor], flags: list[bool]) -> None:
        """Raises MixedDevices; counts where the host waits."""
        # A tensor of no dimension may lie on the host where a number might stand, as in sums and products.
        numbers = torch.Tag.pointwise in func.tags or name.startswith(NUMBERS)
        strays = [x for x, flag in zip(tensors, flags, strict=True) if not flag and (x.ndim or not numbers)]
        if name in INDEXED and flags[0]:  # an index on the host is brought over
            for stray in strays:
                self._ledger.copied(stray, True, False)
            if any(x.dtype == torch.bool for x in tensors[1:]):
                self._ledger.waited()
        elif any(x.numel() for x in strays):
            raise MixedDevices(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
                               f"and cpu! ({name} in {place()})")
        waits = name in WAITS or (name == "_grouped_mm" and tensors[0].dtype != torch.bfloat16)
        if waits and not _Calls.quiet:
            self._ledger.waited()


class _Calls(TorchFunctionMode):
    """Every call that names a device, or asks a tensor for its own."""

    quiet = False  # a copy is no launch of its cast

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        tensor: Any = torch.Tensor
        self._known: dict[Any, Callable[..., Any]] = {
            tensor.device.__get__: lambda x: HERE if there(x) else x.device,
            tensor.is_cuda.__get__: there,
            tensor.is_cpu.__get__: lambda x: x.is_cpu and not there(x),
            tensor.get_device: lambda x: 0 if there(x) else -1,
            tensor.to: self._to,
            tensor.cpu: lambda x, **how: self._to(x, "cpu", **how),
            tensor.cuda: lambda x, device=None, **how: self._to(x, HERE, **how),
            tensor.tolist: self._read,
            tensor.numpy: self._numpy,
            tensor.__array__: self._numpy,
            tensor.pin_memory: lambda x, *_: mark(x.clone(), "pinned"),
            tensor.is_pinned: lambda x, *_: ledger.is_pinned(x),
            tensor.new_tensor: self._new_tensor,
            tensor.__deepcopy__: lambda x, memo: _tag(x.__deepcopy__(memo)) if there(x) else x.__deepcopy__(memo),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known, kwargs = self._known.get(func), dict(kwargs or {})
        if known is not None:
            return known(*args, **kwargs)
        if not _names_here(kwargs.get("device")):
            return func(*args, **kwargs)
        if func in RANDOM:
            kwargs["generator"] = self._ledger.dice(kwargs.get("generator"))
        out = func(*args, **{**kwargs, "device": "cpu"})
        if func in FROM_HOST:
            self._ledger.copied(out, True, False)
        else:
            self._ledger.launched(func.__name__, [out])
        return _tag(out)

    def _to(self, x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (HERE if there(args[0]) else torch.device("cpu"), args[0].dtype, *args[1:])
        device, dtype, non_blocking, form = _parsed(*args, **kwargs)
        if device is not None and device.type == "meta":
            return x.to(device, dtype)
        wanted = there(x) if device is None else device.type == "cuda"
        form = torch.preserve_format if form is None else form
        if wanted == there(x):
            return x.to(dtype or x.dtype, copy=copy, memory_format=form)
        with _quietly():
            out = _tag(x.to(dtype or x.dtype, copy=True, memory_format=form), wanted)
            if not wanted and non_blocking:
                mark(out, "pinned")  # as torch makes the target of such a copy
            self._ledger.copied(x if wanted else out, wanted, non_blocking)
        return out

    def _read(self, x: Tensor) -> Any:
        self._ledger.check_landed([x], "tolist")
        if there(x):
            self._ledger.waited()
        with _quietly():
            return x.tolist()

    def _numpy(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if there(x):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        self._ledger.check_landed([x], "numpy")
        return x.numpy(*args, **kwargs)

    def _new_tensor(self, x: Tensor, data: Any, **how: Any) -> Tensor:
        out = x.new_tensor(data, **how)
        if there(x):
            self._ledger.copied(out, True, False)
        return _tag(out, there(x))


def _install(patch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    """What torch says of a device, and autocast on it."""
    runtime = SimpleNamespace(cudaHostRegister=ledger.registered, cudaHostUnregister=ledger.unregistered)
    stream = SimpleNamespace(synchronize=ledger.waited)
    says: dict[str, Any] = {
        "is_available": True, "current_device": 0, "device_count": 1, "set_device": None, "empty_cache": None,
        "cudart": runtime, "current_stream": stream, "is_bf16_supported": True, "mem_get_info": (TOTAL, TOTAL),
        "get_device_capability": (9, 0), "max_memory_allocated": 0, "memory_allocated": 0,
        "reset_peak_memory_stats": None, "get_device_name": "no device", "is_initialized": True}
    for name, answer in says.items():
        patch.setattr(torch.cuda, name, partial(lambda answer, *_, **__: answer, answer))
    dice = ledger.generator
    made: dict[str, Any] = {"synchronize": lambda *_: ledger.waited(), "get_rng_state": lambda *_: dice.get_state(),
                            "set_rng_state": lambda state, *_: dice.set_state(state),
                            "manual_seed_all": dice.manual_seed}
    for name, answer in made.items():
        patch.setattr(torch.cuda, name, answer)
        if hasattr(torch.cuda.random, name):
            patch.setattr(torch.cuda.random, name, answer)
    patch.setattr(torch, "Generator", Generator)
    patch.setattr(save_and_load, "safe_load_file", lambda file, device: {
        name: tensor.to(device) for name, tensor in load_file(file).items()})
    grouped = torch._C._group_tensors_by_device_and_dtype  # for foreach kernels and fused optimisers

    def group(lists: Any, with_indices: bool = False) -> Any:
        return {(HERE if there(next(x for x in found[0][0] if x is not None)) else device, kind): found
                for (device, kind), found in grouped(lists, with_indices).items()}

    patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", group)
    autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    def by_cpu(device_type: str, *args: Any, **kwargs: Any) -> torch.autocast:
        return autocast(_by_cpu(device_type), *args, **kwargs)

    patch.setattr(torch, "autocast", by_cpu)
    patch.setattr(torch, "is_autocast_enabled", lambda device="cpu": enabled(_by_cpu(device)))
    patch.setattr(torch, "get_autocast_dtype", lambda device: dtype(_by_cpu(device)))


def _keep_in_backward(patch: pytest.MonkeyPatch, calls: _Calls) -> None:
    """A mode is off while it handles a call, as `backward` is one, and much of ours is called from there."""
    run_backward = torch.autograd._engine_run_backward

    def with_calls(*args: Any, **kwargs: Any) -> Any:
        with nullcontext() if calls in _get_current_function_mode_stack() else calls:
            return run_backward(*args, **kwargs)

    patch.setattr(torch.autograd, "_engine_run_backward", with_calls)
    # Hooks of saved tensors are called where the mode may be off: what is computed anew may say another device.
    patch.setitem(checkpoint._allowed_determinism_checks_to_fns, "default",
                  lambda x: {"shape": x.shape, "dtype": x.dtype})


def _by_cpu(device: str) -> str:
    return "cpu" if device == "cuda" else device


def _forget_processes() -> None:
    """accelerate remembers the device of a process for good."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state() if hasattr(state, "_reset_state") else state._shared_state.clear()


@contextmanager
def _quietly() -> Iterator[None]:
    before, _Calls.quiet = _Calls.quiet, True
    try:
        yield
    finally:
        _Calls.quiet = before


def _tag(x: Tensor, value: bool = True) -> Tensor:
    return mark(x, "there", value)


def _names_here(device: Any) -> bool:
    if device is None or isinstance(device, int):
        return device is not None
    return torch.device(device).type == "cuda"


def _parsed(*args: Any, **kwargs: Any) -> tuple[torch.device | None, torch.dtype | None, bool, Any]:
    found: tuple[Any, ...] = torch._C._nn._parse_to(*args, **kwargs)
    return found  # type: ignore[return-value]
