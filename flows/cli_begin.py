"""What every command of the other command files does first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def after(begin: Callable[[], object], command: Callable[..., None]) -> Callable[..., None]:
    """The command with `begin` called before it; its options stay as they are."""

    @functools.wraps(command)
    def begun(*args: Any, **kwargs: Any) -> None:
        begin()
        command(*args, **kwargs)

    return begun
