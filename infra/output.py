"""Standard output and error whose reader may go: a closed pipe or terminal costs what is shown, not the run."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any


class _Kept:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """From now on everything goes nowhere, also what is buffered and what children write."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def keep_writing() -> None:
    """Make this process outlive the readers of its output. Handlers that hold the streams already are given the new."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if isinstance(old, _Kept):
            continue
        new = _Kept(old)
        setattr(sys, name, new)
        for handler in _handlers():
            if getattr(handler, "stream", None) is old:
                handler.setStream(new)
            console: Any = getattr(handler, "console", None)  # rich's, which ends the process where a pipe is broken
            if console is not None and console.file is old:
                console.file = new


def _handlers() -> list[Any]:
    loggers = [logging.getLogger(), *(one for one in logging.root.manager.loggerDict.values()
                                      if isinstance(one, logging.Logger))]
    return [handler for logger in loggers for handler in logger.handlers]
