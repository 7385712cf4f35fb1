"""Telephone numbers: with their country code, in the American form, or after a word that says what they are.

Other numbers without their country code are looked for only beside such a word: with a region assumed, sums and
serial numbers are taken for telephones. Numbers that belong to no person are left alone: toll-free and shared ones,
which are those of helplines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers
from phonenumbers import Leniency, PhoneNumber, PhoneNumberFormat, PhoneNumberMatcher, PhoneNumberType

from sft_core.data.curate.pii.span import Span, digits

_NOBODYS = (PhoneNumberType.TOLL_FREE, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN,
            PhoneNumberType.VOICEMAIL)
_INTERNATIONAL = re.compile(r"(?<![\w+.)\]*/^-])(?:\(\+|\+ ?\(?|00)[1-9][\d ().\-\u2011/]{6,22}\d(?!\w)")
_NOUN = (r"(?:tele)?phone|telefono?|teléfono|téléphone|telefone|telefoon|tel|tél|mobile|mobil|móvil|handy|cell|celular|"
         r"portable|fax|whatsapp|hotline")
_SAYS = r"call|text|dial|ring|sms|reach|contact"
_LABEL = re.compile(rf"\b(?:(?P<noun>{_NOUN})|{_SAYS})\b"
                    r"(?:[ -]?(?:phone|number|num|no|nr|me|us|him|her|them|is|was|on|at|or))*[\"'.:=# ]{1,5}\Z",
                    re.IGNORECASE)
_NATIONAL = re.compile(r"(?<!\w)\(?0?\d{2,4}\)?[ ./-]?\d{2,4}(?:[ ./-]?\d{2,4}){1,3}(?![\w.-]?\d)")
_AMERICAN = re.compile(r"(?<![\w.$€£+/-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}(?P<sign>[ .-]))[2-9]\d{2}[.-]\d{4}"
                       r"(?![\w-]|\.\d)")
"""Hyphens or brackets say enough: of 440 such numbers in 75 M characters of public data sets all were telephones."""
_SAID = re.compile(rf"\b(?:{_NOUN}|{_SAYS}|numbers?)\b", re.IGNORECASE)
_SUM = re.compile(r"\+ (?!.*(?:\(|\d-\d))|\+\d+\.\d+\Z")
_DATE = re.compile(r"(?:19|20)\d\d-\d\d-\d\d")
FEWEST, MOST = 9, 12
"""Digits of a national number, so that years, hours and amounts beside such a word are none."""
_NEAR = 60


def phones(text: str) -> Iterator[Span]:
    """Numbers in the form +, country code, number; those whose country is not known as their digits."""
    if "+" in text or "00" in text:
        for found in _INTERNATIONAL.finditer(text):
            yield from _international(found)
    for found in _NATIONAL.finditer(text):
        if FEWEST <= len(digits(found[0])) <= MOST and not _DATE.match(found[0]):
            label = _LABEL.search(text, max(0, found.start() - _NEAR), found.start())
            if label and (label["noun"] or found[0][0] in "0("):
                yield from _national(found.start(), found[0], sure=True)
    for found in _AMERICAN.finditer(text):
        if found["sign"] != " " or _SAID.search(text, max(0, found.start() - _NEAR), found.start()):
            yield from _national(found.start(), found[0], sure=False)


def _international(found: re.Match[str]) -> Iterator[Span]:
    written = found[0]
    if _SUM.match(written):
        return
    fewer = int(written.startswith("00"))  # 0049 … is read as +49 …, a character less
    for match in PhoneNumberMatcher("+" + written[2:] if fewer else written, None, leniency=Leniency.POSSIBLE):
        grouped = len(digits(match.raw_string)) < len(match.raw_string) - 1
        if (phonenumbers.is_valid_number(match.number) or (grouped and not fewer)) and _is_somebodys(match.number):
            opened = match.raw_string.startswith("(") and ")" not in match.raw_string
            start = found.start() + match.start + opened + (fewer if match.start else 0)
            yield Span("phone", start, found.start() + match.end + fewer, _said(match.number))


def _national(start: int, written: str, *, sure: bool) -> Iterator[Span]:
    """A number without its country, American where it can be. `sure`: it is a telephone number wherever it is one."""
    number = phonenumbers.parse(written, "US")
    american = phonenumbers.is_valid_number(number)
    if (sure or american) and _is_somebodys(number):
        yield Span("phone", start, start + len(written), _said(number) if american else digits(written))


def _said(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _is_somebodys(number: PhoneNumber) -> bool:
    return phonenumbers.number_type(number) not in _NOBODYS
