"""What single tasks of lm-eval need besides lm-eval, asked for before a model is loaded.

IFEval's checks import langdetect and immutabledict, and split sentences and words with NLTK's `punkt_tab`. lm-eval
tries to download that and goes on without; the first prompt about sentences would then end the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO

from sft_core.errors import EvalError

MODULES = ("langdetect", "immutabledict", "nltk")
PUNKT = "tokenizers/punkt_tab/english/"


def require(tasks: Sequence[str]) -> None:
    """Check what these tasks need; NLTK's data is fetched where there is a network.

    Raises:
        EvalError: something is missing; says what to install, or where to put it.
    """
    if not any("ifeval" in name for name in tasks):
        return
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise EvalError(f"ifeval needs {', '.join(missing)}; install with `pip install 'sft-platform[ifeval]'`")
    import nltk

    with redirect_stderr(StringIO()):  # it says at length what the error below says
        found = _has_punkt() or (nltk.download("punkt_tab", quiet=True) and _has_punkt())
    if found:
        return
    raise EvalError("ifeval counts sentences and words with NLTK's punkt_tab, which is not on this machine and cannot "
                    "be fetched; on one with a network run `python -m nltk.downloader punkt_tab`, copy its folder to "
                    f"one of {nltk.data.path[:3]} as {PUNKT}, or name the folder above `tokenizers` in NLTK_DATA")


def _has_punkt() -> bool:
    import nltk

    try:
        nltk.data.find(PUNKT)
    except LookupError:
        return False
    return True
