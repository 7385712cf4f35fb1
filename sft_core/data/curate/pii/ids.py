"""National numbers of persons: a shape, check digits, and for shapes that other numbers have a word that says so.

Check digits and dates by python-stdnum. Of the countries' numbers those are here that belong to people (none of
companies) and either have check digits or are named where they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import NamedTuple

from sft_core.data.curate.pii.span import Span, digits

BEHIND = 2
"""Characters behind a number that say whether it ends there."""
BEFORE, AFTER = 50, 25
"""Characters around a number where the word that names it is looked for."""


class _Scheme(NamedTuple):
    checks: str  # module of stdnum with `is_valid`
    shape: re.Pattern[str]
    named: re.Pattern[str] | None  # None: the shape is enough


def _scheme(checks: str, shape: str, named: str | None = None) -> _Scheme:
    word = rf"(?<![^\W_])(?:{named.replace(' ', '[ _-]?')})(?![^\W_])" if named else None
    return _Scheme(checks, re.compile(rf"(?<![\w.$€£/-])(?:{shape})(?![\w]|[.,/-]\d)"),
                   re.compile(word, re.IGNORECASE) if word else None)


_CODES = (
    _scheme("it.codicefiscale", r"[A-Z]{6}\d\d[A-EHLMPRST][0-7]\d[A-Z]\d{3}[A-Z]"),
    _scheme("mx.curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[\dA-Z]\d"),
    _scheme("in_.pan", r"[A-Z]{3}P[A-Z]\d{4}[A-Z]", r"pan|permanent account"),
)
_NUMBERS = (
    _scheme("es.dni", r"\d{8}-?[A-HJ-NP-TV-Z]"),
    _scheme("es.nie", r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]"),
    _scheme("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d"),
    _scheme("br.cpf", r"\d{9}-?\d\d", r"cpf"),
    _scheme("fi.hetu", r"[0-3]\d[01]\d\d\d[-+A-FU-Y]\d{3}[\dA-Y]"),
    _scheme("se.personnummer", r"(?:19|20)?\d\d[01]\d[0-3]\d[-+]\d{4}"),
    _scheme("kr.rrn", r"\d\d[01]\d[0-3]\d-[1-4]\d{6}"),
    _scheme("cn.ric", r"[1-8]\d{5}(?:19|20)\d\d[01]\d[0-3]\d{4}[\dX]"),
    _scheme("fr.nir", r"[12] ?\d\d ?[01]\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d"),
    _scheme("ch.ssn", r"756\.\d{4}\.\d{4}\.\d\d"),
    _scheme("cl.rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]"),
    _scheme("be.nn", r"\d\d\.[0-5]\d\.[0-3]\d-\d{3}\.\d\d"),
    _scheme("pt.cc", r"\d{8} ?\d ?[A-Z\d]{2}\d", r"cart[aã]o de cidad[aã]o|citizen card|cc"),
    _scheme("us.ssn", r"\d{3}-\d\d-\d{4}|\d{3} \d\d \d{4}|\d{9}", r"ssn|social security"),
    _scheme("us.itin", r"9\d\d-\d\d-\d{4}", r"itin"),
    _scheme("nl.bsn", r"\d{9}|\d{4}\.\d\d\.\d{3}", r"bsn|burgerservicenummer"),
    _scheme("pl.pesel", r"\d{11}", r"pesel"),
    _scheme("de.idnr", r"\d\d ?\d{3} ?\d{3} ?\d{3}",
            r"(?:steuer-?)?(?:id-?nr|ident\w*)|steuer-?id|idnr|steuerliche\w*|tax id|tin"),
    _scheme("gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", r"nhs"),
    _scheme("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", r"sin|social insurance"),
    _scheme("au.tfn", r"\d{3} ?\d{3} ?\d{2,3}", r"tfn|tax file"),
    _scheme("in_.aadhaar", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", r"aadh?aar|uidai"),
    _scheme("za.idnr", r"\d{13}",
            r"id (?:number|no|nr|card|book|document)|(?:his|her|their|my|your|za|sa) id|identity|rsa|south african"),
    _scheme("dk.cpr", r"[0-3]\d[01]\d\d\d-?\d{4}", r"cpr|personnummer"),
    _scheme("no.fodselsnummer", r"[0-7]\d[0-9]\d\d\d ?\d{5}", r"f[øo]dselsnummer|personnummer|fnr"),
    _scheme("tr.tckimlik", r"[1-9]\d{10}", r"kimlik|tc no|tckn"),
    _scheme("ro.cnp", r"[1-9]\d{12}", r"cnp"),
    _scheme("bg.egn", r"\d{10}", r"egn|егн"),
    _scheme("jp.in_", r"\d{4}[ -]?\d{4}[ -]?\d{4}", r"my number|マイナンバー|個人番号"),
    _scheme("ie.pps", r"\d{7}[A-W][A-IW]?", r"pps|ppsn"),
)
_NINO = re.compile(r"(?<!\w)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?!\w)")
_NINO_NAMED = re.compile(r"national insurance|\bni(?: |_)?(?:number|no)\b|(?<![^\W_])nino(?![^\W_])", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]{2} ?[0-9]{2}")
"""What every code above has."""
_STRETCH = re.compile(r"[0-9XYZ](?:[ .+-]?[0-9A-Zk]){6,}")
"""What every number above lies in, for one look at a text instead of thirty."""
FEWEST_DIGITS = 7


def ids(text: str) -> Iterator[Span]:
    """Numbers of persons; spans may overlap where one number is valid in two countries."""
    for stretch in _STRETCH.finditer(text):
        if len(digits(stretch[0])) >= FEWEST_DIGITS:
            yield from _valid_ones(_NUMBERS, text, stretch.start(), stretch.end() + BEHIND)
    if _CODE.search(text):
        yield from _valid_ones(_CODES, text, 0, len(text))
        for found in _NINO.finditer(text):  # no check digit, and none of its parts is verified
            if _is_named(_NINO_NAMED, text, found):
                yield _span(found)


def _valid_ones(schemes: Sequence[_Scheme], text: str, start: int, end: int) -> Iterator[Span]:
    for scheme in schemes:
        for found in scheme.shape.finditer(text, start, end):
            if (scheme.named is None or _is_named(scheme.named, text, found)) and _valid(scheme.checks, found[0]):
                yield _span(found)


def _span(found: re.Match[str]) -> Span:
    return Span("id", found.start(), found.end(), re.sub(r"[ .-]", "", found[0]).upper())


def _is_named(named: re.Pattern[str], text: str, found: re.Match[str]) -> bool:
    return named.search(text[max(0, found.start() - BEFORE) : found.start()]) is not None or \
        named.search(text[found.end() : found.end() + AFTER]) is not None


def _valid(module: str, number: str) -> bool:
    return bool(import_module(f"stdnum.{module}").is_valid(number.replace(" ", "")))
