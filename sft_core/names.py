"""Names: what a configuration may call things, and any text as the name of a file or an entry of a store."""

from __future__ import annotations

import hashlib
import re

from sft_core.errors import ConfigError

LONGEST_BYTES = 100
"""Of a name, in UTF-8: with what is added to it (the start of a key, a trial's number) it stays below the 255 bytes
that file systems give one part of a path."""
_NAME = re.compile(r"[^\W_]([\w. -]*[\w-])?")
_NOT_IN_A_FILE_NAME = re.compile(r"[^\w.-]+")


def name_problem(text: str) -> str | None:
    """What keeps a text from being a name, which becomes part of a path in the workspace; None where nothing does."""
    if _NAME.fullmatch(text) and len(text.encode()) <= LONGEST_BYTES:
        return None
    return ("this is no name; a name starts with a letter or digit and holds letters, digits, dashes, underscores, and "
            f"inside also dots and spaces, no slash, at most {LONGEST_BYTES} bytes")


def check_name(where: str, text: str) -> None:
    """Raises ConfigError where a text that was given on the command line is no name."""
    if problem := name_problem(text):
        raise ConfigError(f"{where} {text!r}: {problem}")


def distinct(text: str, plain: str) -> str:
    """`plain`, a readable form of `text`, with the start of the text's SHA-256 behind it where it is not the text.

    So two texts never share a name, and the same text has the same one everywhere.
    """
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def file_name(text: str) -> str:
    """A text as the name of a file without its ending: `lm:arc` becomes `lm-arc-` and six hex digits."""
    plain = _NOT_IN_A_FILE_NAME.sub("-", text).lstrip(".-")
    while len(plain.encode()) > LONGEST_BYTES:
        plain = plain[:-1]
    return distinct(text, plain or "_")
