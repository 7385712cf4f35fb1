"""Passwords and tokens in URLs, hidden before anything is shown or written."""

from __future__ import annotations

import re

HIDDEN = "***"
_WEB = re.compile(r"\b(https?://)(?:([^\s/?#:@]*):)?[^\s/?#]*@")
"""https://user:password@host and https://token@host. The host begins behind the last @ before a slash."""
_OTHER = re.compile(r"\b((?!https?:)[A-Za-z][\w+.-]*://[^\s:/@?#]*:)[^\s]*@")
"""postgresql://user:password@host; databases allow a slash in the password."""
_ASKED = re.compile(r"(?i)([?&](?:password|passwd|pwd|sslpassword|token|access_token|api_?key|secret)=)[^\s&'\"]+")


def masked(text: str) -> str:
    """The text with every password and token in a URL as ***; user, host and path stay."""
    text = _WEB.sub(lambda found: f"{found[1]}{found[2] + ':' if found[2] is not None else ''}{HIDDEN}@", text)
    return _ASKED.sub(rf"\1{HIDDEN}", _OTHER.sub(rf"\1{HIDDEN}@", text))


def has_secret(text: str) -> bool:
    """Whether a URL holds a password or token."""
    return masked(text) != text
