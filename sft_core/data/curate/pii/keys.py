"""Keys and tokens, private key blocks, and passwords in URLs and headers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import pairwise

from sft_core.data.curate.pii.span import Span
from sft_core.data.curate.pii.tokens import patterns

SHORTEST = 20
"""Characters of a token: a text whose words are all shorter holds none."""
VARIED = 8
"""Fewer different characters are an example's: `hf_xxxxxxxx`."""
LONG, OFTEN = 32, 0.45
"""Letters and digits of a token in which changes between small, capital and digit count, and the share of them that
change: 0.4 in a name whose words have five letters, 0.6 in chance."""
_EXAMPLE = re.compile(r"example|sample|your|dummy|placeholder|x{6}|0{8}|1234567890abcdef|abcdefghijkl", re.IGNORECASE)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{10,}={0,2}\.[\w-]*={0,2}\.[\w-]+(?:\.[\w-]+){0,2}")
_PEM = re.compile(r"-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----"
                  r"(?:(?:[^-]|-(?!----)){1,20000}-----END \1-----|(?:\s|\\n|[A-Za-z0-9+/=]){60,})")
_USERINFO = re.compile(r"\b[A-Za-z][\w+.-]{1,20}://[^\s:/?#@'\"<>]{0,64}:([^\s/'\"<>@]{3,128})@(?=[\w\[])")
_ASKED = re.compile(r"[?&;](?:password|passwd|pwd|sslpassword|token|access_token|auth_token|api_?key|apikey|secret|"
                    r"client_secret|sig|signature)=([^\s&'\"<>#]{8,})", re.IGNORECASE)
_HEADER = re.compile(r"\b(?:Bearer|Authorization: ?(?:Basic|Token)|X-Api-Key:) +([A-Za-z0-9+/._~-]{20,}=*)",
                     re.IGNORECASE)
_BOT = re.compile(r"(?:\bbot|(?<!\w))(\d{8,10}:(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{35})(?![\w-])")
"""A token of Telegram, also behind the `bot` of its URLs."""
_NAMED = re.compile(r"(?:api_?key|access_?key|account_?key|auth_?token|access_?token|_token|_secret|secret_?key|_key)"
                    r"[\"']?\s{0,3}(?::=|[=:])\s{0,3}[\"']?([A-Za-z0-9_+/.-]{20,}=*)", re.IGNORECASE)
"""A name that says what its value is, as in files of settings."""
_WORD = re.compile(r"[<{$%*\[]|(?:your|my|the)?[_-]?(?:user)?(?:pass(?:word|wd)?|pwd|pw|secret|token|"
                   r"key|api[_-]?key|xxx+)(?:[_-]?here)?[>}\]%]?\Z|\w*\(", re.IGNORECASE)
"""What stands for a password in examples."""


def keys(text: str) -> Iterator[Span]:
    """Secrets; of a URL or a header the secret alone, so that it stays what it is."""
    if words := " ".join(word for word in text.split() if len(word) >= SHORTEST):
        yield from _tokens(text, words)
    if "PRIVATE KEY" in text:
        yield from (Span("key", *found.span(), found[0]) for found in _PEM.finditer(text))
    if "://" in text:
        for shape in (_USERINFO, _ASKED):
            yield from (_group(found) for found in shape.finditer(text)
                        if not _WORD.match(found[1]) and not _EXAMPLE.search(found[1]))


def _tokens(text: str, words: str) -> Iterator[Span]:
    for pattern in patterns():
        for start, end in pattern.find(text, words):
            if _is_real(text[start:end]):
                yield Span("key", start, end, text[start:end])
    if "eyJ" in text:
        yield from (Span("key", *found.span(), found[0]) for found in _JWT.finditer(text) if _has_header(found[0]))
    if ":" in words:
        yield from (_group(found) for found in _BOT.finditer(text) if _is_real(found[1]))
    for shape in (_HEADER, _NAMED):
        yield from (_group(found) for found in shape.finditer(text) if _is_real(found[1]) and _is_mixed(found[1]))


def _group(found: re.Match[str]) -> Span:
    return Span("key", *found.span(1), found[1])


def _is_real(token: str) -> bool:
    return len(set(token)) >= VARIED and not _EXAMPLE.search(token)


def _is_mixed(token: str) -> bool:
    """Whether digits are strewn in it, as in no name of a variable or a file, or its letters change between small and
    capital more often than words begin."""
    if len(re.findall(r"[A-Za-z]\d", token)) >= 3:
        return True
    kinds = [(sign.isupper(), sign.isdigit()) for sign in token if sign.isalnum()]
    changes = sum(a != b for a, b in pairwise(kinds))
    return len(kinds) >= LONG and any(digit for _, digit in kinds) and changes >= OFTEN * len(kinds)


def _has_header(token: str) -> bool:
    """Whether the first part of a token is the header of a JWT (RFC 7515, 4): an object with an algorithm."""
    first = token.partition(".")[0].rstrip("=")
    try:
        header = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except ValueError:
        return False
    return isinstance(header, dict) and "alg" in header
