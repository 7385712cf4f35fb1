"""A suite's own scorer: one function, by its import path or from a file beside the suite."""

from __future__ import annotations

import importlib
import importlib.util
import math
from functools import cache
from pathlib import Path
from types import ModuleType

from eval_suites.results import SCORER_ERRORS
from eval_suites.scorers.base import Score, Scorer
from eval_suites.scorers.followed import OURS, Followed, follow
from sft_core.errors import EvalError


def load_scorer(spec: str, folder: Path | None) -> Scorer:
    """The function that `package.module:function` or `file.py:function` (in `folder`) names.

    Raises:
        EvalError: there is no such module or function; or its code fails while it is imported.

    The function raises TypeError or ValueError where what it gives is no score.
    """
    place, _, name = spec.partition(":")
    if not name:
        raise EvalError(f"scorer {spec!r} names no function; write package.module:function or file.py:function")
    found = getattr(_module(place, folder), name, None)
    if not callable(found):
        raise EvalError(f"scorer {spec!r}: {place} has no function {name!r}")
    scorer: Scorer = found
    return lambda expect, answer: _checked(scorer(expect, answer), spec)


def _checked(made: object, spec: str) -> Score:
    """What the function gave, if it can be averaged.

    Raises:
        TypeError: it is no Score.
        ValueError: its value is neither None nor in [0, 1], or a metric is no finite number.
    """
    if not isinstance(made, Score):
        raise TypeError(f"{spec} gave {made!r}; a scorer gives Score(value, metrics, why)")
    if made.value is not None and not (_finite(made.value) and 0.0 <= made.value <= 1.0):
        raise ValueError(f"{spec} gave the value {made.value!r}; it lies in 0 to 1, or is None")
    if wrong := {name: metric for name, metric in made.metrics.items() if not _finite(metric)}:
        raise ValueError(f"{spec} gave metrics that are no finite numbers: {wrong}")
    return made._replace(value=made.value if made.value is None else float(made.value))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def scorer_version(spec: str, folder: Path | None) -> str:
    """Moves with the file that holds the function and with all that this imports (`followed.py`): another scorer is
    another protocol.

    Raises:
        EvalError: there is no such module.
    """
    file = _module(spec.partition(":")[0], folder).__file__
    return follow(Path(file)).version if file else spec


def _module(place: str, folder: Path | None) -> ModuleType:
    """As it and what it imports lie there now: a worker that lives on must not score by older ones."""
    try:
        if place.endswith(".py"):
            file = (folder or Path.cwd()) / place
            return _from_file(file, (found := follow(file)).version, found)
        spec = None if place.partition(".")[0] in OURS else importlib.util.find_spec(place)
        if spec is None or not (spec.origin or "").endswith(".py"):
            return importlib.import_module(place)
        return _imported(place, (found := follow(Path(str(spec.origin)))).version, found)
    except (OSError, SyntaxError, *SCORER_ERRORS) as error:
        raise EvalError(f"the scorer's module {place} cannot be imported: {type(error).__name__}: {error}") from error


@cache
def _from_file(file: Path, _version: str, found: Followed) -> ModuleType:
    """The file as a module, once for each version."""
    found.forget()
    module = ModuleType(f"sft_scorer_{file.stem}")
    module.__file__ = str(file)
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)  # the user's own code, as if imported
    return module


@cache
def _imported(place: str, _version: str, found: Followed) -> ModuleType:
    """A module by its import path, once for each version."""
    found.forget()
    return importlib.import_module(place)
