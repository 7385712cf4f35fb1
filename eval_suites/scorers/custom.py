"""A suite's own scorer: one function, by its import path or from a file beside the suite."""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from eval_suites.scorers.base import Scorer
from sft_core.errors import EvalError


def load_scorer(spec: str, folder: Path | None) -> Scorer:
    """The function that `package.module:function` or `file.py:function` (in `folder`) names.

    Raises:
        EvalError: there is no such module or function; it runs when imported, so any error of its own passes.
    """
    place, _, name = spec.partition(":")
    if not name:
        raise EvalError(f"scorer {spec!r} names no function; write package.module:function or file.py:function")
    found = getattr(_module(place, folder), name, None)
    if not callable(found):
        raise EvalError(f"scorer {spec!r}: {place} has no function {name!r}")
    scorer: Scorer = found
    return scorer


def scorer_version(spec: str, folder: Path | None) -> str:
    """Hash of the file that holds the function: another scorer is another protocol.

    Raises:
        EvalError: there is no such module.
    """
    file = _module(spec.partition(":")[0], folder).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else spec


def _module(place: str, folder: Path | None) -> ModuleType:
    file = (folder or Path.cwd()) / place
    try:
        return _from_file(file, file.read_bytes()) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise EvalError(f"the scorer's module {place} cannot be imported: {error}") from error


@cache
def _from_file(file: Path, content: bytes) -> ModuleType:
    """The file as a module, once for each content: a worker that lives on must not score by an older one."""
    module = ModuleType(f"sft_scorer_{file.stem}")
    module.__file__ = str(file)
    exec(compile(content, str(file), "exec"), module.__dict__)  # the user's own code, as an import would run it
    return module
