"""Payment cards and bank accounts: lengths, prefixes and check digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stdnum import iban, luhn

from sft_core.data.curate.pii.span import Span

_CARD = re.compile(r"(?<![\w.+-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}(?:\1?\d{3})?|3\d{3}([ -]?)\d{6}\2\d{4,5})"
                   r"(?![\w]|[.-]\d)")
_ISSUED = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}|3[47]\d{13}|"
    r"(?:6011|65\d{2}|64[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}")
"""Visa, Mastercard, American Express, Discover, Diners Club, JCB, UnionPay: first digits and lengths (ISO/IEC 7812).
Old Visa cards of 13 digits are left aside: sums of money have as many."""
_OTHER = re.compile(r"(?:order|invoice|tracking|imei|serial|parcel|ticket|shipment|booking|transaction|isbn|ean|sku|id|"
                    r"timestamp|commit)\W{0,3}(?:number|no|nr|num|id|code)?\W{0,3}(?:is )?\Z", re.IGNORECASE)
"""What a number is said to be that is no card."""
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
SHORTEST = 15
_NEAR = 30


def cards(text: str) -> Iterator[Span]:
    """Card numbers, in one run or in the groups that cards show."""
    for found in _CARD.finditer(text):
        number = re.sub("[ -]", "", found[0])
        if _ISSUED.fullmatch(number) and len(set(number)) > 1 and luhn.is_valid(number) and \
                not _OTHER.search(text, max(0, found.start() - _NEAR), found.start()):
            yield Span("card", found.start(), found.end(), number)


def ibans(text: str) -> Iterator[Span]:
    """Account numbers of the countries in the registry; what follows one in the text is left aside."""
    for found in _IBAN.finditer(text):
        end = found.end()
        while end - found.start() >= SHORTEST:
            written = text[found.start() : end]
            number = re.sub("[ -]", "", written).upper()
            if not text[end : end + 1].isalnum() and iban.is_valid(number, check_country=False):
                yield Span("iban", found.start(), end, number)
                break
            end -= 1
