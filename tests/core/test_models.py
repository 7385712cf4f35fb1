"""Where a base comes from, what it is, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from sft_core.config.data import ModelSection
from sft_core.errors import ConfigError, ModelError
from sft_core.model.load import (
    check_positions,
    compute_dtype,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    model_identity,
    position_table,
    resolve_device,
)
from sft_core.tiny.paths import BASE_FOLDER


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def _section(path: object, **fields: Any) -> ModelSection:
    return ModelSection(path=str(path), **fields)


def test_a_folder_is_loaded_in_float32_with_sdpa(tiny_base: Path) -> None:
    loaded = load_model(_section(tiny_base), mirror=None)
    assert loaded.model.dtype == torch.float32
    assert loaded.dtype == torch.float32
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") == 3


def test_a_half_precision_folder_is_held_in_float32(make_llama: Callable[..., Any], copied: Path) -> None:
    make_llama().bfloat16().save_pretrained(copied)
    loaded = load_model(_section(copied), mirror=None)
    assert (loaded.model.dtype, loaded.dtype) == (torch.float32, torch.bfloat16)


def test_only_weights_are_loaded_in_less(make_llama: Callable[..., Any], tiny_base: Path) -> None:
    """Rotary frequencies in bfloat16 are 2.8 rad off at position 2,000."""
    model = load_model(_section(tiny_base), mirror=None, dtype=torch.bfloat16).model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    frequencies = model.model.rotary_emb.inv_freq
    assert torch.equal(frequencies, make_llama().model.rotary_emb.inv_freq)
    assert frequencies.dtype == torch.float32


def test_the_mirror_stands_in_for_the_hub(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "org" / "name")
    assert locate(_section("org/name"), tmp_path) == tmp_path / "org" / "name"
    assert locate(_section("tiny"), tmp_path) == BASE_FOLDER
    assert locate(_section(tiny_base), tmp_path) == tiny_base


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "."])
@pytest.mark.parametrize("use", [model_identity, load_model, load_config, locate])
def test_what_may_not_be_read_is_one_sentence(name: str, use: Callable[..., Any], copied: Path,
                                              as_nobody: Callable[[Path], AbstractContextManager[None]]) -> None:
    (copied / "model.safetensors").chmod(0o644)
    (copied / name).chmod(0)
    told = rf"model\.path: .*{'copy' if name == '.' else name} cannot be read: Permission denied.*chmod"
    with as_nobody(copied.parent), pytest.raises(ModelError, match=told):
        use(_section(copied), mirror=None)


def test_identity_is_the_content_not_the_place(tiny_base: Path, copied: Path) -> None:
    ours, theirs = model_identity(_section(tiny_base), None), model_identity(_section(copied), None)
    assert ours == theirs
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(ours["files"])
    (copied / "README.md").write_text("words")
    assert model_identity(_section(copied), None) == ours
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    changed = model_identity(_section(copied), None)
    assert changed["digest"] != ours["digest"]
    assert changed["files"]["config.json"] == ours["files"]["config.json"]
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    assert model_identity(_section(copied), None)["digest"] != changed["digest"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere' is not a folder; give a folder"):
        locate(_section(f"{tmp_path}/nowhere"), None)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no config.json in it: is it the folder of a model\?"):
        load_tokenizer(_section(tmp_path), tmp_path)


@pytest.mark.parametrize("mirror", [None, "mirror"])
def test_an_unreachable_hub_says_what_to_do(mirror: str | None, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route\nsecond line")

    monkeypatch.setattr("sft_core.model.load.snapshot_download", offline)
    with pytest.raises(ModelError, match=r"'org/name' .*no route.*SFT_MIRROR/org/name") as found:
        locate(_section("org/name"), tmp_path if mirror else None)
    assert ("has no folder" in str(found.value)) == bool(mirror)


@pytest.mark.parametrize(("damage", "told"), [
    (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors; fetch"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"but pytorch_model\.bin; load and save"),
    (lambda f: _cut(f / "model.safetensors", 0.7), r"cut off at \d+ bytes"),
    (lambda f: _cut(f / "model.safetensors", 0.0), "cut off at 0 bytes"),
    (lambda f: _spoil(f / "model.safetensors", float("nan")), r"1 of the model's tensors hold NaN .*first: .*norm\.w"),
    (lambda f: _spoil(f / "model.safetensors", float("-inf")), r"hold NaN or infinite numbers"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    (lambda f: _change(f / "config.json", model_type="of another world"), "cannot be loaded"),
    (lambda f: (f / "config.json").write_text('{"model_type": '), r"config\.json"),
    (lambda f: (f / "model.safetensors.index.json").write_text("{torn"), r"index\.json cannot be read as JSON: "),
    (lambda f: (f / "model.safetensors.index.json").write_text("[1]"), r"index\.json holds list, not an object"),
    (lambda f: (f / "model.safetensors.index.json").write_text("{}"), r"index\.json has no weight_map"),
    (lambda f: (f / "adapter_config.json").write_bytes(b"\xff{"), r"adapter_config\.json cannot be read as JSON"),
])
def test_an_incomplete_folder_is_named(copied: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(copied)
    with pytest.raises(ModelError, match=told):
        load_model(_section(copied), mirror=None)


def _cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def _spoil(file: Path, number: float) -> None:
    weights = load_file(file)
    weights["model.norm.weight"][3] = number
    save_file(weights, file, {"format": "pt"})


def _change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ModelError, match="holds an adapter for org/base.*merged"):
        load_model(ModelSection(path=str(tmp_path)), mirror=None)


def test_a_missing_shard_is_named(make_llama: Callable[..., Any], copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    make_llama().save_pretrained(copied, max_shard_size="30KB")
    shards = sorted(copied.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert load_model(_section(copied), mirror=None).model.num_parameters() == make_llama().num_parameters()
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        model_identity(_section(copied), None)


def test_weights_that_would_start_at_random_are_refused(copied: Path) -> None:
    _change(copied / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"weights are missing.*layers\.2.*at random"):
        load_model(_section(copied), mirror=None)


def test_a_tokenizer_larger_than_the_embedding_is_refused(copied: Path, tiny_tokenizer: Any) -> None:
    larger = type(tiny_tokenizer).from_pretrained(copied)
    larger.add_tokens(["<|new|>"])
    larger.save_pretrained(copied)
    with pytest.raises(ModelError, match=r"knows 65 tokens, the embedding has 64"):
        load_model(_section(copied), mirror=None)


def test_code_of_the_model_runs_only_when_asked(copied: Path) -> None:
    _change(copied / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (copied / "own.py").write_text(f"open({str(copied / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match=r"model\.trust_remote_code: true"):
        load_model(_section(copied), mirror=None)
    assert not (copied / "ran").exists()


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(_section("tiny")) == cpu
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve_device(_section("tiny", device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device(_section("tiny")) == cuda
    assert resolve_device(_section("tiny", device="cpu")) == cpu
    assert compute_dtype(_section("tiny"), cuda) == torch.bfloat16
    assert compute_dtype(_section("tiny"), cpu) == torch.float32
    assert compute_dtype(_section("tiny", precision="float32"), cuda) == torch.float32
    assert compute_dtype(_section("tiny", precision="bfloat16"), cpu) == torch.bfloat16


# Positions


ROPE = {"rope_theta": 10000.0}
POSITIONS: list[tuple[str, dict[str, Any], int | None]] = [
    ("gpt2", {"n_positions": 128}, 128), ("opt", {"max_position_embeddings": 128}, 128),
    ("llama", {"max_position_embeddings": 128}, 128), ("mpt", {"max_seq_len": 128}, 128),
    ("llama", {"max_position_embeddings": 64, "rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}, 128),
    ("qwen2", {"max_position_embeddings": 64, "rope_parameters": {
        **ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    ("llama", {"max_position_embeddings": 128, "rope_parameters": {
        **ROPE, "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0}}, 128),
    ("mamba", {}, None), ("bloom", {}, None),
]


@pytest.mark.parametrize(("kind", "fields", "known"), POSITIONS)
def test_more_tokens_than_positions_are_refused(kind: str, fields: dict[str, Any], known: int | None,
                                                tmp_path: Path) -> None:
    CONFIG_MAPPING[kind](**fields).save_pretrained(tmp_path)
    assert check_positions(_section(tmp_path), None, 128) == known
    if known is None:
        assert check_positions(_section(tmp_path), None, 1 << 20) is None
        return
    with pytest.raises(ModelError, match=r"data.max_tokens is 129, but .* knows 128 positions .* 128 or less"):
        check_positions(_section(tmp_path), None, 129)


LONGROPE = {**ROPE, "rope_type": "longrope", "original_max_position_embeddings": 64, "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8}


@pytest.mark.parametrize(("kind", "fields", "name", "known"), [
    ("llama", {"max_position_embeddings": 64, "rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}},
     "dynamic", 128),
    ("llama", {"max_position_embeddings": 256, "rope_parameters": {**LONGROPE, "factor": 4.0}}, "longrope", 256),
    ("phi3", {"max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_parameters": LONGROPE,
              "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
     "longrope", 256),
    ("gemma3_text", {"max_position_embeddings": 256, "rope_parameters": {
        "full_attention": {**LONGROPE, "factor": 4.0}, "sliding_attention": {**ROPE, "rope_type": "default"}}},
     "longrope", 256)])
def test_examples_whose_positions_would_depend_on_their_neighbours_are_refused(
        kind: str, fields: dict[str, Any], name: str, known: int, tmp_path: Path) -> None:
    """All rows of a micro-batch get the frequencies of its longest example: a short one was taught with others."""
    CONFIG_MAPPING[kind](**fields).save_pretrained(tmp_path)
    assert check_positions(_section(tmp_path), None, 64) == known
    with pytest.raises(ModelError, match=rf"data.max_tokens is 65, but beyond 64 tokens .* \(rope_type: {name} in its "
                                         r"config.json\).* Set data.max_tokens to 64 or less"):
        check_positions(_section(tmp_path), None, 65)


@pytest.mark.parametrize(("kind", "fields", "table"), [
    ("gpt2", {"n_positions": 128, "n_embd": 32, "n_layer": 1, "n_head": 2}, 128),
    ("opt", {"max_position_embeddings": 128, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "word_embed_proj_dim": 32}, 128),
    ("llama", {"max_position_embeddings": 128, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
               "num_attention_heads": 2}, None)])
def test_learned_positions_are_told_from_computed_ones(kind: str, fields: dict[str, Any], table: int | None) -> None:
    config = CONFIG_MAPPING[kind](vocab_size=128, **fields)
    assert position_table(AutoModelForCausalLM.from_config(config)) == table


def test_a_config_that_contradicts_itself_is_told(copied: Path) -> None:
    _change(copied / "config.json", model_type="mamba2", hidden_size=32, expand=2, num_heads=7, head_dim=5)
    with pytest.raises(ModelError, match=r"cannot be read: .* must equal num_heads"):
        check_positions(_section(copied), None, 16)
    with pytest.raises(ModelError, match=r"cannot be loaded: .* must equal num_heads"):
        load_model(_section(copied), mirror=None)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_is_refused(name: str, copied: Path) -> None:
    """Where transformers knows no causal class for it, and where it has one and would start a head at random."""
    CONFIG_MAPPING[name]().save_pretrained(copied)
    for look in (partial(load_config, mirror=None), partial(load_model, mirror=None)):
        with pytest.raises(ModelError, match=rf"copy holds an encoder-decoder \({name}: is_encoder_decoder in its "
                                             r"config.json\).* give such a one"):
            look(_section(copied))
