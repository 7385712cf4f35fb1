"""What the device that is not there was asked for, and copies that are late.

A copy that nobody waits for lands when the host waits for the device, as it may on CUDA: until then its target holds
garbage and may not be read, and what it is copied from may not be written.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOMS = ("/sft_core/", "/eval_suites/", "/bench/", "/tests/")


class MixedDevices(RuntimeError):
    """What CUDA says of an operation on tensors of two devices."""


class TooSoon(RuntimeError):
    """Memory of the host was read before a copy had landed in it, or written while a copy was under way from it: on
    CUDA wrong numbers without a word."""


class Generator(torch.Generator):
    """A generator that says where it is."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        """It draws as one of the CPU does."""
        made: Generator = super().__new__(cls, "cpu")
        made._device = torch.device("cuda", 0) if torch.device(device).type == "cuda" else torch.device("cpu")
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """As it was asked for."""
        return self._device


class _Late(NamedTuple):
    """A copy that nobody has waited for."""

    host: Tensor  # in pinned memory: where it lands, or where it comes from
    content: Tensor
    there: bool  # to the device


@dataclass
class Ledger:
    """What the device was asked for; places are `file:function` of our own code."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    pageable: Counter[str] = field(default_factory=Counter)  # copies from memory that is not pinned: the host waits
    read_and_written: int = 0  # bytes
    short_in: frozenset[str] = frozenset()  # functions: the first kernel or copy within all of them finds no memory
    pinned: set[int] = field(default_factory=set)  # addresses of memory of the host that was registered with CUDA
    generator: torch.Generator = field(default_factory=lambda: Generator("cuda"))  # what the device draws from
    _late: list[_Late] = field(default_factory=list)

    def clear(self) -> None:
        """Count from zero."""
        for counter in (self.launches, self.waits, self.copies, self.pageable):
            counter.clear()
        self.read_and_written = 0

    def totals(self) -> dict[str, int]:
        """Counts by name."""
        found = {name: getattr(self, name).total() for name in ("launches", "waits", "copies", "pageable")}
        return {**found, "bytes": self.read_and_written}

    def launched(self, name: str, tensors: list[Tensor]) -> None:
        """A kernel on these tensors."""
        self.allocated()
        self.launches[name] += 1
        self.read_and_written += sum(x.numel() * x.element_size() for x in tensors)

    def waited(self) -> None:
        """The host waits for all that the device was asked for.

        Raises:
            TooSoon: memory was written while a copy was under way from it.
        """
        self.waits[place()] += 1
        late, self._late = self._late, []
        for host, content, to_device in late:
            if not to_device:
                mark(host, "late", False).copy_(content)
            elif not torch.equal(_bytes(host), _bytes(content)):
                raise TooSoon(f"memory was written while a copy to the device was under way from it ({place()} waits)")

    def copied(self, host: Tensor, there: bool, non_blocking: bool) -> None:
        """A copy to the device (`there`) or from it; `host` is what it came from or went to, and is made late where it
        would be on CUDA: only memory that is pinned is copied while the host goes on."""
        if there:
            self.allocated()
        self.copies[f"{'to' if there else 'from'} the device in {place()}"] += 1
        pinned = self.is_pinned(host)
        if there and not pinned:
            self.pageable[place()] += 1
        if not non_blocking or not (there or pinned):
            self.waited()
        elif pinned:
            self._late.append(_Late(host.detach(), host.detach().clone(), there))
            if not there:
                mark(host.detach().fill_(torch.nan if host.is_floating_point() else 77), "late")

    def dice(self, asked: torch.Generator | None) -> torch.Generator:
        """What an operation draws from that was asked to draw from this.

        Raises:
            MixedDevices: it is one of the host.
        """
        if asked is not None and asked.device.type != "cuda":
            raise MixedDevices(f"Expected a 'cuda' device type for generator but found 'cpu' (in {place()})")
        return asked or self.generator

    def registered(self, address: int, *_: Any) -> int:
        """Memory of the host is locked."""
        self.pinned.add(address)
        return 0

    def unregistered(self, address: int) -> int:
        """It is no more."""
        self.pinned.discard(address)
        return 0

    def is_pinned(self, x: Tensor) -> bool:
        """Whether memory of the host is locked for transfers."""
        return getattr(storage(x), "pinned", False) or storage(x).data_ptr() in self.pinned

    def check_landed(self, tensors: list[Tensor], name: str) -> None:
        """Raises TooSoon where one of them is still waited for."""
        if any(getattr(storage(x), "late", False) for x in tensors):
            raise TooSoon(f"{name} in {place()} reads what a copy from the device has not brought yet")

    def allocated(self) -> None:
        """Memory of the device is wanted.

        Raises:
            torch.OutOfMemoryError: where `short_in` says so, once.
        """
        if self.short_in and self.short_in <= _functions():
            self.short_in = frozenset()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (injected)")


def storage(x: Tensor) -> Any:
    """The memory of a tensor, which carries the marks."""
    with torch._C.DisableTorchFunction():
        return x.untyped_storage()


def mark(x: Tensor, name: str, value: bool = True) -> Tensor:
    """Write a mark on a tensor's memory."""
    setattr(storage(x), name, value)
    return x


def place() -> str:
    """The innermost function of ours that is being called now."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        own = any(room in file for room in ROOMS) and "site-packages" not in file
        if own and not file.endswith(("/tests/cuda/pseudo.py", "/tests/cuda/ledger.py")):
            return f"{file.rsplit('/', 1)[1]}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


def _bytes(x: Tensor) -> Tensor:
    return x.detach().reshape(-1).view(torch.uint8)


def _functions() -> set[str]:
    """Names of all functions that are being called now."""
    names, frame = set(), sys._getframe(1)
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names
