"""The Hugging Face hub: what the page of an id says, and a folder sent there.

Address and token are huggingface_hub's own settings: HF_ENDPOINT, and HF_TOKEN or what `hf auth login` keeps. The token
is not shown, and in no message.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sft_core.errors import ConfigError, HubError

REFUSED = (OSError, ValueError, HTTPError)
"""What the library raises without a network, without rights, and of ids that there are not. HTTPError is that of the
client it speaks with, which has changed once."""
TIMEOUT_S = 10.0
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "adapter_config.json")


def front_matter(name: str, kind: Literal["model", "dataset"], revision: str | None) -> Mapping[str, Any]:
    """What the page of a hub id says at its top; nothing where it cannot be seen from here. It is asked for once, where
    the library's downloads try for half a minute without a network."""
    try:
        api = HfApi()
        asked = api.model_info if kind == "model" else api.dataset_info
        found = asked(name, revision=revision, timeout=TIMEOUT_S).card_data
    except REFUSED:
        return {}
    return dict(vars(found)) if found else {}


def check_hub_id(name: str) -> None:
    """Raises ConfigError for a name that is no hub id."""
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} is no hub id: {error}; give NAME or ORGANISATION/NAME") from error


def check_login() -> None:
    """Raises HubError where there is no token to send anything with."""
    if get_token() is None:
        raise HubError(f"{HfApi().endpoint} takes models from those who log in, and there is no token; "
                       "`hf auth login`, or set HF_TOKEN to one that may write")


def send(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Make the model repository where it is not there, and send a folder in one commit; returns its address.

    A repository that is there keeps its visibility and its other files, but for weights that the folder lacks: a loader
    would take those of before.

    Raises:
        HubError: the hub cannot be reached, or refuses; the message holds no token.
    """
    api = HfApi()
    try:
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message=message,
                          delete_patterns=list(WEIGHTS))
    except REFUSED as error:
        raise HubError(f"{name} could not be sent to {api.endpoint}: {_why(error)}") from error
    return f"{place.url}"


def _why(error: BaseException) -> str:
    """In one line, with what to do about it."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    said = " ".join(str(error).split()) or type(error).__name__
    to_do = {401: "the token is not known there: `hf auth login` makes a new one",
             403: "the token may not write there: give it the right to, or name another place",
             409: "it has changed meanwhile: give the command again"}
    return f"{said}; {to_do.get(status or 0, 'check name, network and HF_ENDPOINT, and give the command again')}"
