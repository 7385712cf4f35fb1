"""The base model: where it lies, what it is (a content hash), the loaded model and tokenizer.

Only safetensors are read: a pickle can run code. Weights that are trained are held in float32 whatever the file holds,
because small updates vanish in bfloat16; the compute precision is `ModelSection.precision`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, ModelError
from sft_core.model.folder import Stored, stored_dtype, stored_whole
from sft_core.model.rotary import kinds_of, turning_point
from sft_core.model.where import KINDS, check_complete, files_of, local_folder, readable
from sft_core.stage import file_digest, known
from sft_core.templates.choose import add_tokens

UNREADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, StrictDataclassError)
"""What libraries raise about files of a model that they cannot make sense of."""
HASH_THREADS = 4
POSITIONS = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""What configs call the number of positions; transformers' attribute maps lead n_positions and its kin to the first."""
SPARE_POSITIONS = 8
"""Rows that a table of positions may have beyond them (OPT has two, of padding)."""


class LoadedModel(NamedTuple):
    """A base model as training uses it."""

    model: Any  # PreTrainedModel, on the CPU; one in parts on the device
    tokenizer: Any  # PreTrainedTokenizerBase
    folder: Path
    dtype: torch.dtype  # of the weights in the folder; the trained model is saved in it
    whole: frozenset[str] = frozenset()  # weights that are in float32 there all the same, and stay so
    rest: Mapping[str, Stored] = {}  # of a model in parts (`sft_core/model/parts.py`): what is on the meta device yet


def locate(section: ModelSection, mirror: Path | None) -> Path:
    """The local folder of the base: the embedded one, a given folder, `mirror/<hub id>`, or a download.

    Raises:
        ModelError: there is none, the hub cannot be reached, or one of its files may not be read.
    """
    return local_folder(section, mirror) or readable(section, _downloaded(section, mirror))


def _downloaded(section: ModelSection, mirror: Path | None) -> Path:
    patterns = [f"*{kind}" for kind in KINDS if kind != ".py" or section.trust_remote_code]
    try:
        return Path(snapshot_download(section.path, revision=section.revision, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        where = f"; SFT_MIRROR ({mirror}) has no folder {section.path}" if mirror else ""
        raise ModelError(f"model {section.path!r} (revision {section.revision or 'main'}) is neither a local folder "
                         f"nor to be had from the hub: {first_line(error)}{where}. Check the name and the network, or "
                         f"put the model into SFT_MIRROR/{section.path}, name it in data.mirror, or give model.path a "
                         "local folder") from error


def model_identity(section: ModelSection, mirror: Path | None) -> dict[str, Any]:
    """What the base is, by content: equal for equal files wherever they lie. Nothing is loaded.

    Returns:
        `digest` (SHA-256 over all weight, config and tokenizer files, and code where it is trusted and so runs),
        `files` (name → first 16 hex digits) and `bytes`. Hashing runs in threads at the speed of the disk and is
        remembered within the process.

    Raises:
        ModelError: the folder is missing or incomplete.
    """
    folder = locate(section, mirror)
    check_complete(folder)
    files = [file for file in files_of(folder) if file.suffix != ".py" or section.trust_remote_code]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = list(pool.map(_digest, files))
    whole = hashlib.sha256("".join(f"{p.name} {d}\n" for p, d in zip(files, digests, strict=True)).encode())
    return {"digest": whole.hexdigest(), "bytes": sum(p.stat().st_size for p in files),
            "files": {p.name: d[:16] for p, d in zip(files, digests, strict=True)}}


def load_model(section: ModelSection, *, mirror: Path | None, added: Sequence[str] = (),
               quantize: Literal["none", "nf4"] = "none", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load the base on the CPU (with `nf4` in 4 bits on the device), and its tokenizer.

    Args:
        dtype: of the weights. Buffers, and weights that the model itself keeps whole, stay in float32; casting a
            loaded model would round them too (of rotary frequencies, some radians at a few thousand positions).
        added: tokens that the template needs and the tokenizer lacks; both get them, see `grow`.

    Raises:
        ModelError: missing or incomplete folder, an encoder-decoder, no safetensors, weights that do not fill the
            model, a tokenizer that knows more tokens than the embedding has rows, code of its own without
            trust_remote_code, or `nf4` without bitsandbytes.
    """
    transformers_logging.disable_progress_bar()  # bars of a second among lines that tell of hours
    folder = locate(section, mirror)
    check_complete(folder)
    tokenizer = load_tokenizer(section, folder)
    precision = {"dtype": dtype} | (_in_4_bits(section) if quantize == "nf4" else {})
    try:
        _check_causal(AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code,
                                                 local_files_only=True), folder)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True,
            trust_remote_code=section.trust_remote_code, local_files_only=True, **precision)
    except UNREADABLE as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}"
                         + _trust_hint(section, folder)) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{folder}: {len(missing)} weights are missing in its safetensors (first: {missing[0]}); they "
                         "would start at random; fetch the whole model again")
    check_finite(model, folder)
    check_tokens(model, tokenizer, folder)
    grow(model, tokenizer, added)
    return LoadedModel(model, tokenizer, folder, stored_dtype(folder), stored_whole(folder))


@torch.no_grad()
def check_finite(model: Any, place: Path) -> None:
    """Raises ModelError where a weight that is loaded is NaN or infinite: all that the model says would be too."""
    broken = [name for name, p in model.named_parameters() if not p.is_meta and p.is_floating_point()
              and p.dtype.itemsize > 1 and p.numel() and not all(end.isfinite() for end in p.aminmax())]
    if broken:
        raise ModelError(f"{place}: {len(broken)} of the model's tensors hold NaN or infinite numbers (first: "
                         f"{broken[0]}); fetch the model again, or take an earlier save of it")


def check_tokens(model: Any, tokenizer: Any, folder: Path) -> None:
    """Raises ModelError when the tokenizer knows tokens that have no embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"{folder}: the tokenizer knows {len(tokenizer)} tokens, the embedding has {rows} rows; use "
                         "the tokenizer that belongs to the model, or resize the embedding and save the model first")


def load_config(section: ModelSection, mirror: Path | None) -> Any:
    """The base's config, a PreTrainedConfig; nothing else is loaded.

    Raises:
        ModelError: there is no such model, its config cannot be read, or it is an encoder-decoder.
    """
    folder = locate(section, mirror)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code, local_files_only=True)
    except UNREADABLE as error:
        raise ModelError(f"the config of the model in {folder} cannot be read: {first_line(error)}"
                         + _trust_hint(section, folder)) from error
    _check_causal(config, folder)
    return config


def _check_causal(config: Any, folder: Path) -> None:
    if config.is_encoder_decoder:
        raise ModelError(f"model.path: {folder} holds an encoder-decoder ({config.model_type}: is_encoder_decoder in "
                         "its config.json), which reads a prompt otherwise than it writes; models that are trained and "
                         "evaluated here are causal (decoders alone): give such a one, a Llama or a Qwen for example")


def positions_of(config: Any) -> int | None:
    """How many positions the model knows, None where there is no bound (state spaces, ALiBi).

    Scaled rotary positions reach further than the config's number, which for `linear` and `dynamic` is the one before
    scaling; with `yarn` that is `original_max_position_embeddings`; with `llama3` and `longrope` the config gives the
    number after it (as vLLM reads it, `_get_and_verify_max_len`). Scaling that differs by layer is after it, too.
    """
    text = config.get_text_config()
    known: int | None = next((n for name in POSITIONS if (n := getattr(text, name, None))), None)
    rope = getattr(text, "rope_parameters", None) or {}
    if known is None or rope.get("rope_type") not in ("linear", "dynamic", "yarn"):
        return known
    begin = (rope.get("original_max_position_embeddings") if rope["rope_type"] == "yarn" else None) or known
    return max(known, int(begin * rope.get("factor", 1.0)))


def position_table(model: Any) -> int | None:
    """How many positions the model has a learned embedding of, beyond which it cannot go; None where positions are
    computed."""
    known, tokens = positions_of(model.config), model.get_input_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    learned = known is not None and any(known <= m.num_embeddings <= known + SPARE_POSITIONS for m in tables)
    return known if learned else None


def check_positions(section: ModelSection, mirror: Path | None, max_tokens: int) -> int | None:
    """How many positions the base knows, which is at least `max_tokens`; None where there is no bound.

    Raises:
        ModelError: there are fewer, or they are not the same in every batch of such examples; or see `load_config`.
    """
    config = load_config(section, mirror)
    known, same = positions_of(config), turning_point(config)
    if same is not None and same < max_tokens:
        raise ModelError(f"data.max_tokens is {max_tokens}, but beyond {same} tokens the rotary positions of "
                         f"{section.path} depend on the longest example of a micro-batch (rope_type: "
                         f"{kinds_of(config)} in its config.json), so that what an example teaches depends on which "
                         f"others lie beside it. Set data.max_tokens to {same} or less (data.too_long says what "
                         "happens to longer conversations), or choose a base without such scaling")
    if known is not None and known < max_tokens:
        raise ModelError(f"data.max_tokens is {max_tokens}, but {section.path} knows {known} positions "
                         f"({' or '.join(POSITIONS)} in its config.json): beyond them it has no embedding, or one it "
                         f"has never seen. Set data.max_tokens to {known} or less (data.too_long says what happens to "
                         "longer conversations), or give it scaled positions (rope_parameters in config.json) first")
    return known


@torch.no_grad()
def grow(model: Any, tokenizer: Any, added: Sequence[str]) -> None:
    """Give tokenizer and model new tokens, in place.

    Their rows in the embedding and the head begin at the mean of all old rows (Hewitt 2021) plus a hundredth of the
    rows' spread as noise, so that no two are the same; always the same noise.
    """
    old = len(tokenizer)
    if not (new := add_tokens(tokenizer, added)):
        return
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = [i for i in tokenizer.convert_tokens_to_ids(list(new)) if i >= old]
    noise = torch.Generator().manual_seed(0)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for weight in (embedding,) if head is embedding else (embedding, head):
        known = weight[:old].float()
        spread = torch.randn(len(ids), weight.shape[1], generator=noise) * known.std(0).cpu() * 0.01
        weight[ids] = (known.mean(0) + spread.to(known.device)).to(weight.dtype)


def load_tokenizer(section: ModelSection, folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ModelError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=section.trust_remote_code,
                                             local_files_only=True)
    except UNREADABLE as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {first_line(error)}; copy the tokenizer files "
                         "of the base into the folder" + _trust_hint(section, folder)) from error


def resolve_device(section: ModelSection) -> torch.device:
    """The device of this run.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if section.device == "cuda" and not available:
        raise ConfigError("model.device (--device) is cuda, but torch finds no CUDA device; use `auto` or `cpu`, or "
                          "a torch build with CUDA")
    return torch.device("cuda" if available and section.device != "cpu" else "cpu")


def compute_dtype(section: ModelSection, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: bfloat16 (autocast) or float32."""
    if section.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if section.precision == "bfloat16" else torch.float32


def _in_4_bits(section: ModelSection) -> dict[str, Any]:
    """How QLoRA loads a base: NF4 with double quantisation."""
    if find_spec("bitsandbytes") is None:
        raise ModelError("train.lora.quantize: nf4 needs bitsandbytes: pip install 'sft-platform[qlora]'; or use none")
    from transformers import BitsAndBytesConfig

    device = resolve_device(section)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                             bnb_4bit_compute_dtype=compute_dtype(section, device))
    return {"quantization_config": how,
            "device_map": {"": torch.cuda.current_device() if device.type == "cuda" else "cpu"}}


def _digest(file: Path) -> str:
    return _digest_once(*map(str, known(file)))


@lru_cache(maxsize=1024)
def _digest_once(path: str, *_as_it_is: str) -> str:
    return file_digest(Path(path))


def _trust_hint(section: ModelSection, folder: Path) -> str:
    file = folder / "config.json"
    if not file.is_file():
        return f"; there is no {file.name} in it: is it the folder of a model?"
    if section.trust_remote_code or "auto_map" not in file.read_text(encoding="utf-8"):
        return ""
    return "; it comes with code of its own: if you trust it, set model.trust_remote_code: true (--trust-remote-code)"


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])
