"""Patterns of keys and tokens: those of detect-secrets whose shape is enough, and what they miss.

Left aside of detect-secrets: high entropy and keywords, which hit on plain text; names of variables with any value
(Cloudant, IBM, SoftLayer); Artifactory, whose pattern fits words in capitals; and those whose patterns find less or
more than the secret, or only old ones: Azure, Discord, npm and Twilio, which are here, and JWT, private keys, basic
authentication and Telegram, which are in `keys.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import NamedTuple

_PLUGINS = (
    ("aws", "AWSKeyDetector", ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "'", '"')),
    ("github_token", "GitHubTokenDetector", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("gitlab_token", "GitLabTokenDetector", ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "glcbt-",
                                             "glimt-", "glptt-", "glagent-", "gloas-")),
    ("mailchimp", "MailchimpDetector", ("-us",)),
    ("openai", "OpenAIDetector", ("T3BlbkFJ",)),
    ("pypi_token", "PypiTokenDetector", ("pypi-",)),
    ("sendgrid", "SendGridDetector", ("SG.",)),
    ("slack", "SlackDetector", ("xox", "hooks.slack.com")),
    ("square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    ("stripe", "StripeDetector", ("k_live_",)),
)
"""Module, class, and what one of a text's long words must hold for its patterns to be tried: looking for it costs a
tenth. The secret key of AWS stands in quotes."""
_OWN = (
    (("hf_",), r"hf_[A-Za-z0-9]{30,40}"),
    (("api_org_",), r"api_org_[A-Za-z0-9]{34}"),
    (("sk-",), r"sk-ant-[a-z]+\d\d-[\w-]{20,}"),
    (("sk-",), r"sk-(?:proj|svcacct|admin|None)-[\w-]{20,}"),
    (("sk-",), r"sk-or-v1-[0-9a-f]{64}"),
    (("sk-",), r"sk-(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{32,64}"),
    (("github_pat_",), r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    (("AIza",), r"AIza[\w-]{35}"),
    (("ya29.",), r"ya29\.[\w-]{30,}"),
    (("GOCSPX-",), r"GOCSPX-[\w-]{28}"),
    (("xapp-", "xox"), r"(?:xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{40,}|xox[a-z](?:-\d)?-(?=[\w-]*\d)[\w-]{20,})"),
    (("AccountKey=",), r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),
    ((".",), r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40}"),
    (("k_test_", "k_live_", "whsec_"), r"(?:[srp]k_(?:test|live)|whsec)_[A-Za-z0-9]{24,}"),
    (("npm_",), r"npm_[A-Za-z0-9]{36}"),
    (("glsa_",), r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}"),
    (("_v1_",), r"do[opr]_v1_[0-9a-f]{64}"),
    (("dapi",), r"dapi[0-9a-f]{32}(?:-\d)?"),
    (("shp",), r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    (("gsk_",), r"gsk_[A-Za-z0-9]{52}"),
    (("r8_",), r"r8_[A-Za-z0-9]{37}"),
    (("pplx-",), r"pplx-[A-Za-z0-9]{48,56}"),
    (("xai-",), r"xai-[A-Za-z0-9]{80}"),
    (("dckr_",), r"dckr_(?:pat|oat)_[\w-]{27,}"),
    (("PMAK-",), r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    (("lin_api_",), r"lin_api_[A-Za-z0-9]{40}"),
    (("ntn_", "secret_"), r"(?:ntn|secret)_[A-Za-z0-9]{43,46}"),
    (("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    (("AC", "SK"), r"(?:AC|SK)[0-9a-f]{32}"),
)


class Pattern(NamedTuple):
    """A token's shape."""

    needles: tuple[str, ...]  # one of them is in every such token, or beside it in the same word
    shape: re.Pattern[str]

    def find(self, text: str, words: str) -> Iterator[tuple[int, int]]:
        """Where tokens begin and end; a part of a longer word is none. `words`: those of the text that are long."""
        if any(needle in words for needle in self.needles):
            for found in self.shape.finditer(text):
                start, end = found.span(1) if _names_a_variable(self.shape) else found.span()
                if not _joins(text[start - 1 : start]) and not _joins(text[end : end + 1]):
                    yield start, end


@cache
def patterns() -> tuple[Pattern, ...]:
    """All of them; detect-secrets is loaded here, which takes a quarter of a second."""
    theirs = [Pattern(needles, shape) for module, name, needles in _PLUGINS
              for shape in getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist]
    return (*theirs, *(Pattern(needles, re.compile(shape)) for needles, shape in _OWN))


def _names_a_variable(shape: re.Pattern[str]) -> bool:
    """Whether the token is the group in quotes behind a name, `aws_secret = "…"`."""
    return shape.groups > 0 and shape.pattern.startswith("aws")


def _joins(sign: str) -> bool:
    return sign.isalnum() or sign == "_"
