"""Servers that others than this machine may reach: only with a user and a password, and only under known names.

Prefect and MLflow each have an authentication of their own, off by default: Prefect's asks for the one string
PREFECT_SERVER_API_AUTH_STRING, MLflow's app `basic-auth` for users that it keeps, the first of which is made of
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Requests of other web sites and under other names are refused by
both: an origin has to be one of the allowed hosts.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from infra.servers import Command, can_listen
from sft_core.errors import ConfigError, OrchestrationError

LOOPBACK = "127.0.0.1"
NEEDED = {"PREFECT_API_AUTH_STRING": "PREFECT_SERVER_API_AUTH_STRING=user:password", "MLFLOW_TRACKING_USERNAME":
          "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD"}
SHORTEST = 12
"""Characters of a password."""


class Listening(NamedTuple):
    """Where servers listen, and under which names others may ask for them (besides localhost and private addresses)."""

    host: str = LOOPBACK
    allowed: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        """Where the servers listen: what only this machine reaches is all the same to them."""
        return LOOPBACK if self.is_local else self.host

    @property
    def client(self) -> str:
        """The host that a client on this machine asks."""
        return LOOPBACK if self.host in ("0.0.0.0", "::") or self.is_local else self.host


def check(listening: Listening, credentials: Mapping[str, str]) -> None:
    """Refuse to let others in without authentication, and to listen where this machine is not.

    Raises:
        ConfigError: a user or a password is missing or too short, or the host is none of this machine.
        OrchestrationError: MLflow's authentication is not installed.
    """
    if listening.is_local:
        return
    if missing := [said for name, said in NEEDED.items() if not credentials.get(name)]:
        raise ConfigError(f"--host {listening.host} lets others than this machine in, so it needs authentication; set "
                          f"{', '.join(missing)}, or leave --host out")
    if not can_listen(listening.host, 0):
        raise ConfigError(f"--host {listening.host} is no address of this machine (`ip address` lists them); give one "
                          "that is, 0.0.0.0 for all of them, or leave --host out")
    secret = credentials["PREFECT_API_AUTH_STRING"].partition(":")[2]
    if min(len(secret), len(credentials["MLFLOW_TRACKING_PASSWORD"])) < SHORTEST:
        raise ConfigError("the passwords in PREFECT_SERVER_API_AUTH_STRING (user:password) and in "
                          f"MLFLOW_TRACKING_PASSWORD need {SHORTEST} characters or more")
    if find_spec("flask_wtf") is None:
        raise OrchestrationError("MLflow's authentication needs the package flask-wtf; install it with "
                                 "`pip install 'sft-platform[auth]'`")


def guarded(command: Command, listening: Listening, credentials: Mapping[str, str]) -> Command:
    """The command of a server of 127.0.0.1 as one that listens there and asks who comes."""
    if listening.is_local:
        return command
    parts = urlsplit(command.url)
    arguments = [listening.host if one == LOOPBACK else one for one in command.arguments]
    url = parts._replace(netloc=f"{listening.client}:{parts.port}").geturl()
    origins = ",".join(f"{scheme}://{host}{port}" for host in (*listening.allowed, listening.client)
                       for scheme in ("http", "https") for port in ("", f":{parts.port}"))
    if command.name == "prefect":
        arguments[arguments.index("localhost")] = ",".join(("localhost", *listening.allowed, listening.client))
        block = {"PREFECT_SERVER_API_AUTH_STRING": credentials["PREFECT_API_AUTH_STRING"],
                 "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins}
    else:
        arguments += ["--app-name", "basic-auth"]
        block = {"MLFLOW_AUTH_ADMIN_USERNAME": credentials["MLFLOW_TRACKING_USERNAME"],
                 "MLFLOW_AUTH_ADMIN_PASSWORD": credentials["MLFLOW_TRACKING_PASSWORD"],
                 "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
                 "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origins}
        names = dict.fromkeys((*listening.allowed, "localhost", LOOPBACK, listening.client, *_addresses()))
        block["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(f"{name}{port}" for name in names for port in ("", ":*"))
    return command._replace(url=url, arguments=arguments, environment={**command.environment, **block})


def _addresses() -> list[str]:
    """Of this machine. MLflow itself knows patterns alone, which `10.evil.example` fits, and no public address."""
    import psutil  # type: ignore[import-untyped]

    found = [one.address.partition("%")[0] for card in psutil.net_if_addrs().values() for one in card
             if one.family in (socket.AF_INET, socket.AF_INET6)]
    return [f"[{one}]" if ":" in one else one for one in found]
