"""Where a base model lies and whether it is whole, told without torch: within a second, before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_core.config.data import ModelSection
from sft_core.config.located import looked_in
from sft_core.data.localhub import Absent, why_absent
from sft_core.errors import ModelError
from sft_core.tiny.paths import BASE_FOLDER

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
KINDS = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")


def local_folder(section: ModelSection, mirror: Path | None) -> Path | None:
    """The base's folder on this machine: the embedded one, a given one, or `mirror/<hub id>`; None for a hub id that
    is neither.

    Raises:
        ModelError: there is none, and it is no hub id; or one of its files may not be read.
    """
    local = Path(section.path).expanduser()
    if section.path == "tiny":
        return BASE_FOLDER
    if local.is_dir():
        return readable(section, local)
    if mirror is not None and (mirror / section.path).is_dir():
        return readable(section, mirror / section.path)
    if not HUB_ID.fullmatch(section.path) or local.exists():
        raise ModelError(f"model.path: {section.path!r} is not a folder{looked_in(section.path)}; give a "
                         "folder with config.json and *.safetensors, a hub id (org/name), or `tiny`")
    return None


def readable(section: ModelSection, folder: Path) -> Path:
    """The folder, all of whose files can be read. Raises ModelError where they cannot."""
    try:
        for file in files_of(folder):
            file.open("rb").close()  # libraries say of it what each of them likes, tokenizers a bare Exception
    except OSError as error:
        raise ModelError(f"model.path: {section.path!r}: {error.filename} cannot be read: {error.strerror}; let the "
                         "user of this run read all files there (chmod -R a+rX), or copy the model") from error
    return folder


def why_no_model(section: ModelSection, mirror: Path | None) -> Absent | None:
    """Why a base cannot be had on this machine, as far as that is told without loading it; None where it is there and
    whole."""
    try:
        folder = local_folder(section, mirror)
        if folder is None:
            return why_absent(section.path, mirror, "model", section.revision)
        check_complete(folder)
    except ModelError as error:
        return Absent("missing", str(error))
    return None


def files_of(folder: Path) -> list[Path]:
    """The files that a model is made of."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in KINDS)


def check_complete(folder: Path) -> None:
    """Config, and every weight file whole: a truncated download is found by its header, without reading it."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = read_object(adapter).get("base_model_name_or_path")
        raise ModelError(f"{folder} holds an adapter for {base}, not a model; give model.path a model: the base, or "
                         "the merged folder `model` that lies beside the adapter of a finished run")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give model.path the folder of a saved model")
    for file in weight_files(folder):
        if not file.is_file():
            raise ModelError(f"{folder} is incomplete: {file.name} is missing; fetch the model again")
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            have = file.stat().st_size
            header = stream.read(size) if 8 + size <= have else b""
        if not header or have < 8 + size + _data_end(header, file):
            raise ModelError(f"{file} is cut off at {have} bytes; fetch the model again")


def weight_files(folder: Path) -> Iterable[Path]:
    """The safetensors files that make up the model, whether they are there or not.

    Raises:
        ModelError: there is no such file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index} has no weight_map from weights to files; fetch the model again")
        return [folder / name for name in sorted(set(shards.values()))]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    other = sorted(p.name for p in folder.glob("*.bin"))
    has = f" but {', '.join(other[:3])}; load and save it once with save_pretrained to convert it" if other else ""
    raise ModelError(f"{folder} has no model.safetensors{has or '; fetch the model again'}")


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file of the folder holds.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}; fetch the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds {type(found).__name__}, not an object of JSON; fetch the model again")
    return found


def _data_end(header: bytes, file: Path) -> int:
    try:
        tensors = json.loads(header)
        return max((t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"), default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not a safetensors file; fetch the model again") from error
