"""What one check has seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sft_core.errors import Interrupted, SftError

Result = Literal["ok", "failed", "skipped"]


class Seen(NamedTuple):
    """What a check says: its result, and in one sentence with numbers what it saw."""

    result: Result
    told: str


@dataclass(frozen=True)
class Finding:
    """A row of the doctor's table."""

    check: str
    result: Result
    seen: str
    seconds: float


def verdict(good: bool, told: str) -> Seen:
    """ok or failed."""
    return Seen("ok" if good else "failed", told)


def examined(check: str, look: Callable[[], Seen]) -> Finding:
    """Run a check. An error of the platform is what the check has found; a bug is not caught.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    try:
        seen = look()
    except Interrupted:
        raise
    except SftError as error:
        seen = Seen("failed", str(error))
    return Finding(check, seen.result, seen.told, time.monotonic() - began)
