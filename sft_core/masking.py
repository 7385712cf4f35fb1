"""Passwords and tokens in URLs: hidden before anything is shown or written, and addresses that programs would read
differently."""

from __future__ import annotations

import re

HIDDEN = "***"
_USER = r"[^\s/?#@:'\"]*"
_ADDRESS = re.compile(r"\b(?!(?:sqlite|file)[\w+.-]*:///)([A-Za-z][\w+.-]*)://"
                      r"(?!(?:localhost|\d+(?:\.\d+){3}|\[[\da-fA-F:.]+\])(?::\d+)?[/?#])([^\s'\"]*)@")
"""Up to the last @ before white space or a quote, whatever stands between: passwords hold slashes and more, quoted or
not. An @ in the path of an address of this machine, or of one by number, is none of a user."""
_ASKED = re.compile(r"(?i)([?&](?:password|passwd|pwd|sslpassword|token|access_token|api_?key|secret)=)[^\s&'\"]+")
_WEB = ("http", "https")
_LOCAL_PATH = re.compile(r"[/~.]|(?:sqlite|file)[\w+.-]*:///")
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
_PLAIN = re.compile(r"[A-Za-z0-9!$%&()*+,.:;=_~-]*")
"""What stands for itself in a user and a password: all programs then find the same host behind them."""
_QUOTE_IT = ("programs would not agree which part of it is the password; in user, password and query write whatever is "
             "no letter of a to z and no digit as its bytes: / as %2F, # as %23, ? as %3F, @ as %40, and so an @ in a "
             "path (the address is not shown, as a part of it may be a password)")


def masked(text: str) -> str:
    """The text with every password and token in a URL as ***; user, host and path stay."""
    return _ASKED.sub(rf"\1{HIDDEN}", _ADDRESS.sub(_without_secret, text))


def _without_secret(found: re.Match[str]) -> str:
    scheme, inside = found[1], found[2]
    user, colon, _ = inside.partition(":")
    if re.fullmatch(_USER, user) is None:  # what was meant as the user cannot be told
        return f"{scheme}://{HIDDEN}@"
    if colon:
        return f"{scheme}://{user}:{HIDDEN}@"
    return f"{scheme}://{HIDDEN}@" if scheme.lower() in _WEB else found[0]


def has_secret(text: str) -> bool:
    """Whether a URL holds a password or token, or may hold one (`address_problem`)."""
    return masked(text) != text or address_problem(text) is not None


def address_problem(text: str) -> str | None:
    """Why a URL, which is all of the text, would be read differently by different programs, so that parts of its
    password would be taken for the host and shown; None where all agree. What is said holds no part of it.

    Without `://` it is none that programs know, and may be one all the same, whose scheme was forgotten.
    """
    if _ASKED.search(text) and re.search(r"[\s'\"]", text):
        return _QUOTE_IT
    if "@" not in text or _LOCAL_PATH.match(text):
        return None
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _QUOTE_IT if re.search(r":[^/].*@", text, re.DOTALL) else None
    return None if _PLAIN.fullmatch(text[scheme.end():].rpartition("@")[0]) else _QUOTE_IT
