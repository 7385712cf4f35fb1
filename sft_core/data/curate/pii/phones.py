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
_INTERNATIONAL = re.compile(r"(?<![\w+.)\]*/^-])(?:\(\+|\+ ?\(?|00 ?)[1-9][\d ().\-\u2011/]{6,22}\d(?!\w)")
_NOUN = (r"(?:tele)?phone|telefono?|teléfono|téléphone|telefone|telefoon|tel|tél|mobile|mobil|móvil|handy|cell|celular|"
         r"portable|fax|whatsapp|hotline")
_SAYS = r"call|text|dial|ring|sms|reach|contact"
_EAST = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # no space parts a word of these from a number
_EASTERN = r"手机|手機|电话|電話|致电|拨打|携帯|전화|휴대폰|연락처"
_LABEL = re.compile(rf"(?:\b(?:(?P<noun>{_NOUN})|{_SAYS})\b"
                    r"(?:[ -]?(?:phone|number|num|no|nr|me|us|him|her|them|is|was|on|at|or))*|"
                    rf"(?P<eastern>{_EASTERN})[{_EAST}]{{0,4}})[\"'.:=#： ]{{0,5}}\Z",
                    re.IGNORECASE)
_NATIONAL = re.compile(rf"(?<![^\W{_EAST}])" r"\(?0?\d{2,4}\)?[ ./-]?\d{2,4}(?:[ ./-]?\d{2,4}){1,3}(?![\w.-]?\d)")
_CHINESE = re.compile(r"1[3-9]\d[ -]?\d{4}[ -]?\d{4}")
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
            if not found[0].startswith("00 ") or _label(text, found):
                yield from _international(found)
    yield from _labelled(text)
    for found in _AMERICAN.finditer(text):
        if found["sign"] != " " or _SAID.search(text, max(0, found.start() - _NEAR), found.start()):
            yield from _national(found.start(), found[0], sure=False)


def _labelled(text: str) -> Iterator[Span]:
    """Numbers without their country code after a word that says what they are."""
    for found in _NATIONAL.finditer(text):
        label = _label(text, found) if _is_long_enough(found[0]) else None
        if label and (label["noun"] or label["eastern"] or found[0][0] in "0("):
            chinese = label["eastern"] and _CHINESE.fullmatch(found[0])
            yield from _national(found.start(), found[0], sure=True, region="CN" if chinese else "US")


def _is_long_enough(number: str) -> bool:
    return FEWEST <= len(digits(number)) <= MOST and not _DATE.match(number)


def _label(text: str, found: re.Match[str]) -> re.Match[str] | None:
    return _LABEL.search(text, max(0, found.start() - _NEAR), found.start())


def _international(found: re.Match[str]) -> Iterator[Span]:
    written = found[0]
    if _SUM.match(written):
        return
    # 0049 … is read as +49 …, a character less; 00 49 … two
    fewer = len(written) - len(written.removeprefix("00").lstrip()) - 1 if written.startswith("00") else 0
    for match in PhoneNumberMatcher("+" + written[fewer + 1 :] if fewer else written, None, leniency=Leniency.POSSIBLE):
        grouped = len(digits(match.raw_string)) < len(match.raw_string) - 1
        if (phonenumbers.is_valid_number(match.number) or (grouped and not fewer)) and _is_somebodys(match.number):
            opened = match.raw_string.startswith("(") and ")" not in match.raw_string
            start = found.start() + match.start + opened + (fewer if match.start else 0)
            yield Span("phone", start, found.start() + match.end + fewer, _said(match.number))


def _national(start: int, written: str, *, sure: bool, region: str = "US") -> Iterator[Span]:
    """A number without its country, of the region where it can be. `sure`: it is a telephone number wherever it is
    one."""
    number = phonenumbers.parse(written, region)
    valid = phonenumbers.is_valid_number(number)
    if (sure or valid) and _is_somebodys(number):
        yield Span("phone", start, start + len(written), _said(number) if valid else digits(written))


def _said(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _is_somebodys(number: PhoneNumber) -> bool:
    return phonenumbers.number_type(number) not in _NOBODYS
