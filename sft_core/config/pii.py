"""Personal data and secrets: what is looked for, and what becomes of it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from sft_core.config.section import OffIsWord, Section

PiiKind = Literal["key", "iban", "card", "id", "email", "phone", "ip", "name"]

NOBODYS = (
    r".+@(?:[^@]+\.)?example(?:\.(?:com|net|org))?", r".+@(?:[^@]+\.)?(?:test|invalid|localhost)",
    r"(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+", r"2001:db8:.*",
    r"8\.8\.8\.8|8\.8\.4\.4|1\.1\.1\.1|1\.0\.0\.1|9\.9\.9\.9|2001:4860:4860::88(?:88|44)|2606:4700:4700::1[01]{3}",
    r"(?:info|sales|support|abuse|security|postmaster|hostmaster|webmaster|no-?reply|customer-?services?)@.+",
    r"(?:your|my)\w*[._-]?\w*@.+|.+@your[\w-]*\.\w+",
    r"\+1(?:\d{3})?55501\d\d|(?:\+1)?(?:555\d{7}|1234567890)|\+447700900\d{3}|\+44\d{2,3}496\d{4}|\+442079460\d{3}",
    r"4111111111111111|4242424242424242|4012888888881881|5555555555554444|5105105105105100|378282246310005",
)
"""Addresses, networks, numbers and cards that are reserved for documentation (RFC 2606, 5737, 3849; the ranges of the
numbering authorities for fiction), published for tests, offices rather than people (RFC 2142), or public resolvers."""


def _checked_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error}); a full stop that is meant as such is "
                         r"written \.") from error
    return text


class PiiSection(Section):
    action: Annotated[Literal["off", "report", "redact", "drop"], OffIsWord] = "report"
    """What becomes of a conversation that holds personal data or a secret. `report`: it stays as it is and is counted;
    `redact`: the values become placeholders such as `[EMAIL_1]`, the same value the same number within a conversation;
    `drop`: it goes. `off`: nobody looks."""
    kinds: tuple[PiiKind, ...] = ("key", "iban", "card", "id", "email", "phone", "ip")
    """What is looked for. `key`: keys, tokens and passwords in URLs; `id`: national numbers of persons; `phone`:
    numbers with their country code or in the American form, others where a word such as *phone* stands before them;
    `ip`: addresses on the internet, not those of private networks; `name`: people, by a language model, with the extra
    `names`: some 40 rows a second, and many words that are no names."""
    allow: tuple[Annotated[str, AfterValidator(_checked_pattern)], ...] = NOBODYS
    """Values that may stay: regular expressions that the whole value matches, in the form that is compared: addresses
    in lower case, numbers without separators (phones as +, country code, number). By default what is reserved for
    documentation, so that nobody's data is taken for somebody's; a list of your own replaces it."""
    names_model: str = "en_core_web_sm"
    """spaCy model that knows names of people (`kinds: [name]`): an installed package, or a folder."""
