"""E-mail addresses and IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from sft_core.data.curate.pii.span import Span

LOCAL_MOST = 64
"""Longest part before the @ (RFC 5321, 4.5.3.1.1)."""
_LETTER = r"0-9A-Za-z_\u00c0-\u052f"  # scripts that put spaces between words: others do not part address and text
_LOCAL = re.compile(rf"[{_LETTER}](?:[{_LETTER}.+%'-]*[{_LETTER}+-])?\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:xn--[a-z\d-]{2,59}|[^\W\d_]{2,24})(?![\w@-])")
_IN_WORDS = re.compile(r"(?<!\S)([\w.+-]{1,64}) ?[(\[{] ?at ?[)\]}] ?"
                       r"((?:[\w-]{1,63} ?(?:\.|[(\[{] ?dot ?[)\]}]) ?){1,4}[a-z]{2,24})\b", re.IGNORECASE)
_SPELT = tuple(at + space + close for at in ("at", "AT") for space in ("", " ") for close in ")]}")
_DOT = re.compile(r" ?[(\[{] ?dot ?[)\]}] ?", re.IGNORECASE)
_FILES = re.compile(r"bmp|css|csv|dll|exe|gif|html?|jar|jpe?g|js|json|pdf|php|png|svg|txt|webp|xml|ya?ml", re.I)
"""Ends of file names that are no top-level domains: `logo@2x.png`."""
_MACHINES = frozenset({"git", "hg", "svn"})
"""Users of addresses of repositories, `git@host:path`, who are nobody."""
_URL_USER = re.compile(r"://[^\s/?#]*\Z")

_V4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\w|-\d)")
_V6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,40}(?![\w:])")
_VERSION = re.compile(r"\b(?:version|release[ds]?|build|firmware|driver|update|upgrade[ds]?|sections?|chapters?|"
                      r"clauses?|figure|table|articles?|paragraphs?|rfc|oid|ver|sec|kernel|patch)\W{0,3}"
                      r"(?:to |from |no\. ?|is )?\Z|"
                      r"[A-Za-z_]/\Z|\bdoi\W{0,3}\Z|\b10\.\d{4,9}/(?:\S{0,15}[^\d\s])?\Z|"
                      r"(?:§|[=~^<>!]=|~|\^) ?\Z", re.IGNORECASE)
_HOST = re.compile(r"(?:\bip|address|host|server|ping|dns|gateway|\bnode|client|login|ssh|connect)\b", re.IGNORECASE)
_NEAR = 30
DOCUMENTATION = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))
"""Networks of RFC 5737 and 3849: addresses as good as any, which `allow` lets stay."""
SMALL = 32
"""Below it all four numbers are a version's or a section's, unless a word says otherwise: one address in 4,000."""


def emails(text: str) -> Iterator[Span]:
    """Addresses, also those that spell out their signs: `jane (at) mail (dot) org`."""
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(0, at - LOCAL_MOST), at)
        domain = _DOMAIN.match(text, at + 1) if local else None
        if local and domain and _is_email(text, local.start(), domain):
            start = local.start() + text.endswith(("\\n", "\\r", "\\t"), 0, local.start() + 1)  # a line end, spelt out
            yield Span("email", start, domain.end(), text[start : domain.end()].lower())
        at = text.find("@", at + 1)
    if any(sign in text for sign in _SPELT):
        for found in _IN_WORDS.finditer(text):
            value = f"{found[1]}@{_DOT.sub('.', found[2]).replace(' ', '')}".lower()
            yield Span("email", found.start(), found.end(), value)


def _is_email(text: str, start: int, domain: re.Match[str]) -> bool:
    if text[start : domain.start() - 1].lower() in _MACHINES or _FILES.fullmatch(domain[0].rpartition(".")[2]):
        return False
    return _URL_USER.search(text, max(0, start - 200), start) is None


def ips(text: str) -> Iterator[Span]:
    """Addresses on the internet, documentation's included; none of private networks, no versions, no networks."""
    if text.count(".") >= 3:
        for found in _V4.finditer(text):
            if _is_host(text, found):
                yield from _address(found.start(), found[0])
    if ":" in text:
        for found in _V6.finditer(text):
            yield from _address(found.start(), found[0].rstrip(":"))


def _address(start: int, written: str) -> Iterator[Span]:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return
    reserved = any(address in network for network in DOCUMENTATION if network.version == address.version)
    if reserved or (address.is_global and not address.is_multicast):
        yield Span("ip", start, start + len(written), str(address))


def _is_host(text: str, found: re.Match[str]) -> bool:
    """Whether four numbers with dots are an address rather than a version, a section or a network."""
    before = text[max(0, found.start() - _NEAR) : found.start()]
    if _VERSION.search(before) and not before.endswith("//"):
        return False
    parts = found[0].split(".")
    if parts[3] == "0":
        return False
    return max(map(int, parts)) >= SMALL or _HOST.search(before) is not None
