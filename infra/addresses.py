"""Addresses of servers and databases in settings, as all programs that are given them read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sft_core.errors import ConfigError
from sft_core.masking import address_problem

ADDRESSES = ("SFT_DATABASE_URL", "SFT_STUDY_STORAGE", "SFT_ARTIFACTS", "SFT_NIGHTLY_WEBHOOK", "MLFLOW_TRACKING_URI",
             "MLFLOW_S3_ENDPOINT_URL", "PREFECT_API_URL")
"""Environment variables that may hold a password."""


def check_address(setting: str, text: str) -> str:
    """The address itself, where a library that fails on it could not take a part of the password for something else
    and repeat it.

    Raises:
        ConfigError: it could; the address is not repeated.
    """
    if problem := address_problem(text):
        raise ConfigError(f"{setting} is no address that can be used: {problem}")
    return text


def check_addresses(variables: Mapping[str, str]) -> None:
    """Raises ConfigError where one of the addresses among these variables could be taken for another one."""
    for name in ADDRESSES:
        check_address(name, variables.get(name, "").strip())


def absolute_uri(uri: str | None) -> str | None:
    """A SQLite URI with its file made absolute (worker and shell run in different folders); others unchanged."""
    prefix = "sqlite:///"
    if uri is None or not uri.startswith(prefix) or uri.startswith(prefix + "/"):
        return uri
    return prefix + str(Path(uri.removeprefix(prefix)).absolute())
