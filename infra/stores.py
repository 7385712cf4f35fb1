"""Which store an address of MLflow leads to: the servers of `sft up` and their database are one store."""

from __future__ import annotations

from pathlib import Path

from infra.daemons import read_state
from infra.settings import own_store
from sft_core.masking import masked


def store_of(shown: str, workspace: Path) -> str:
    """What stays the same of a store: of a server of `sft up` in this workspace its database, else the address.

    Args:
        shown: an address without its password.
        workspace: whose servers are known.

    Raises:
        ConfigError: the notes of `sft up` are damaged.
    """
    state, address = read_state(workspace), shown.rstrip("/")
    mlflow, port = state.daemons.get("mlflow"), state.ports.get("mlflow")
    ours = {f"http://{host}:{port}" for host in ("127.0.0.1", state.host)}  # which stay after `sft down`
    ours |= {mlflow.url.rstrip("/")} if mlflow else set()
    return masked(own_store(workspace.absolute(), state.database)) if address in ours else address
