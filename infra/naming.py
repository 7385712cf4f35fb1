"""How our names, values and folders are written in MLflow's vocabulary."""

from __future__ import annotations

import getpass
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sft_core.errors import ConfigError
from sft_core.names import distinct
from sft_core.visible import visible

SHOWN_AS = {"note": "mlflow.note.content", "source": "mlflow.source.name", "kind": "mlflow.source.type",
            "commit": "mlflow.source.git.commit", "user": "mlflow.user"}
"""MLflow's own tags: what its page of a run shows under these heads."""
_NOT_A_NAME = re.compile(r"[^\w\-. :/]")
_NO_PARTS = ("", ".", "..")
LONGEST_NAME = 240
"""Characters; MLflow takes 250."""
RUNS_FIRST = "?workflowType=machine_learning"
"""What opens MLflow's pages in the view that has runs and charts: a new browser begins in the one for GenAI."""
VIEW = "sft"
"""The key of the saved view of an experiment's runs, see `runs_view`."""
NAMES_TOLD = 5


class Input(NamedTuple):
    """Data that a run used."""

    name: str
    digest: str
    use: str
    """`training`, `replay`, `evaluation`, or `held_out` of rows that become items of a suite."""
    source: str
    """Where it was read."""
    profile: Mapping[str, object]
    """How much it is, e.g. rows and tokens. It hangs on name and digest: MLflow keeps what the first run said of them.
    """


def origin(source: str, commit: str | None) -> dict[str, str]:
    """Tags of a run that say what started it, of which code and who."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a user of this number
        user = str(os.getuid())
    said = {"source": source, "kind": "LOCAL", "user": user, "commit": commit}
    return {SHOWN_AS[head]: text for head, text in said.items() if text}


def in_markdown(text: str) -> str:
    """Text that a page of Markdown shows as it is, on one line and in one cell of a table."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(visible(" ".join(text.split())), quote=False))


def name(text: str) -> str:
    """A metric or parameter name that MLflow takes: `acc,none` becomes `acc_none-` and six hex digits.

    Letters of every language stay. MLflow reads a name as a path and refuses one that is not in its shortest form.
    """
    parts = [part for part in _NOT_A_NAME.sub("_", text).split("/") if part not in _NO_PARTS]
    return distinct(text, "/".join(parts)[:LONGEST_NAME].rstrip("/"))


def check_alias(alias: str) -> None:
    """Raises ConfigError for an alias that MLflow does not take."""
    if not re.fullmatch(r"[\w-]{1,255}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ConfigError(f"--alias {alias!r} is no alias; MLflow takes letters, digits, dashes and underscores, and "
                          "neither `latest` nor v1, v2 and so on, e.g. champion")


def plain_text(value: object) -> str:
    """A parameter's value: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def quoted(text: str) -> str:
    """Text for inside a '…' of MLflow's filter language, which knows no escape."""
    return text.replace("'", "")


def pages_of(uri: str, experiment_id: str) -> str:
    """Address of an experiment's pages on an MLflow server; empty where the store has no pages."""
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}" if uri.startswith("http") else ""


def run_page(pages: str, run_id: str) -> str | None:
    """Address of a run's page below those of its experiment; None where there are no pages, or there is no run."""
    return f"{pages}/runs/{run_id}{RUNS_FIRST}" if pages and run_id else None


def runs_page(pages: str) -> str | None:
    """Address of the list of an experiment's runs in our view; None where there are no pages."""
    return f"{pages}/runs{RUNS_FIRST}&viewStateShareKey={VIEW}" if pages else None


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its name below the folder; nothing where the folder is not there."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 over the names and digests of all files of a folder, in whatever order they are told."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(files.items())).encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder."""
    return digest_of(file_digests(folder))


def shortened(files: Mapping[str, str]) -> dict[str, str]:
    """The start of every digest, where only a name is to be found by it: a tag of MLflow holds 100,000 characters."""
    return {name: digest[:16] for name, digest in files.items()}


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Every file that is another one than was recorded, that is gone, or that is new; in words."""
    words = {name: "gone" if name not in now else "new" if name not in recorded else "changed"
             for name in sorted({*recorded, *now}) if recorded.get(name) != now.get(name)}
    return [f"{name} ({word})" for name, word in words.items()]


def told(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return ", ".join(names[:NAMES_TOLD]) + more
