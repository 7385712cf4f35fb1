"""A GGUF file becomes a folder that says what the model in the file said; what is no such file is told apart."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sft_core.config.data import ModelSection
from sft_core.errors import ModelError
from sft_core.model.gguf import Imported, import_gguf
from sft_core.model.load import load_model
from tasks.licences import licence_of_model, own_id

LETTERS = list(bytes_to_unicode().values())
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*LETTERS, "hi", *CONTROL]
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm"}
Make = Callable[..., LlamaForCausalLM]
REAL = Path(os.environ.get("SFT_REAL_GGUF", "/nowhere"))


def small(make_llama: Make) -> LlamaForCausalLM:
    """In float32, with weights that bfloat16 can hold."""
    model = make_llama(vocab_size=len(TOKENS), intermediate_size=64, max_position_embeddings=64).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def write(file: Path, model: LlamaForCausalLM, kind: str = "F32", *,  # noqa: PLR0913  (what such a file may say)
          architecture: str = "llama", split: str = "gpt-2", chat: str | None = CHAT, skip: str = "none",
          more: Callable[[gguf.GGUFWriter], object] = lambda _: None) -> Path:
    """The model as llama.cpp's converter writes it: its names, and rotary halves interleaved."""
    config, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - len(CONTROL)) + [3] * len(CONTROL))
    writer.add_token_merges(["h i"])
    writer.add_eos_token_id(len(LETTERS) + 1)
    writer.add_eot_token_id(len(LETTERS) + 3)
    if chat:
        writer.add_chat_template(chat)
    more(writer)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" or skip in name:
            continue
        data = weight.float()
        for module, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if module in name:
                data = data.view(heads, 2, -1, data.shape[1]).transpose(1, 2).reshape(data.shape)
        theirs = name.replace("model.layers.", "blk.")
        for ours, its in NAMES.items():
            theirs = theirs.replace(ours, its)
        type_ = gguf.GGMLQuantizationType[kind if data.ndim == 2 else "F32"]
        writer.add_tensor(theirs, gguf.quantize(data.contiguous().numpy(), type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 45)[None]).logits
    return found


def loaded(folder: Path) -> Any:
    return load_model(ModelSection(path=str(folder), device="cpu"), mirror=None).model.eval()


def test_the_folder_says_what_the_file_says(make_llama: Make, tmp_path: Path) -> None:
    model = small(make_llama)
    made = import_gguf(write(tmp_path / "m.gguf", model), tmp_path / "made")
    assert made == Imported(tmp_path / "made", "llama", sum(p.numel() for p in model.parameters()), (), None, True)
    assert made.remarks() == []
    torch.testing.assert_close(logits(loaded(made.folder)), logits(model), rtol=0, atol=1e-5)
    config = json.loads((made.folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "made"]


def scaled(kind: str) -> Callable[[gguf.GGUFWriter], object]:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(4.0)

    return add


def divided(by: torch.Tensor) -> Callable[[gguf.GGUFWriter], object]:
    return lambda writer: writer.add_tensor("rope_freqs.weight", by.float().numpy())


def test_scaled_rotary_positions_come_along(make_llama: Make, tmp_path: Path) -> None:
    """transformers leaves them out without a word; llama.cpp's converter writes for Llama 3.1 what its scaling divides
    each frequency by."""
    linear = {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 8192}
    for rope in (linear, llama3):
        model = small(partial(make_llama, rope_parameters=rope))
        ours = model.model.rotary_emb.inv_freq
        more = scaled("linear") if rope is linear else divided(5e5 ** -(torch.arange(len(ours)) / len(ours)) / ours)
        folder = import_gguf(write(tmp_path / "m.gguf", model, more=more), tmp_path / str(rope["rope_type"])).folder
        torch.testing.assert_close(logits(loaded(folder)), logits(model), rtol=0, atol=1e-5)


def test_a_scaling_that_cannot_be_read_is_refused(make_llama: Make, tmp_path: Path) -> None:
    for more in (scaled("yarn"), divided(1.0 + torch.arange(4))):
        with pytest.raises(ModelError, match="in a way that cannot be read"):
            import_gguf(write(tmp_path / "m.gguf", small(make_llama), more=more), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_where_a_model_came_from_is_kept_for_cards(make_llama: Make, tmp_path: Path) -> None:
    folder = import_gguf(write(tmp_path / "m.gguf", small(make_llama)), tmp_path / "made", "org/base", "mit").folder
    section = ModelSection(path=str(folder))
    licence = licence_of_model(section, None)
    assert licence is not None
    assert (own_id(section, None), licence.name) == ("org/base", "mit")
    assert own_id(ModelSection(path="org/other"), None) == "org/other"
    (folder / "README.md").write_text("# mine")
    assert own_id(section, None) is None


def test_tokenizer_template_and_stops_come_along(make_llama: Make, tmp_path: Path) -> None:
    folder = import_gguf(write(tmp_path / "m.gguf", small(make_llama)), tmp_path / "made").folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.convert_ids_to_tokens(tokenizer("<|im_start|>hi")["input_ids"]) == ["<|im_start|>", "hi"]
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|endoftext|>", "<|im_end|>"]  # of a text, and of a turn


def test_what_quantisation_has_cost_is_said(make_llama: Make, tmp_path: Path) -> None:
    model = small(make_llama)
    file = write(tmp_path / "m.gguf", model, "Q8_0", split="smollm", chat=None)
    made = import_gguf(file, tmp_path / "made")
    assert made.quantised == ("Q8_0",)
    quantised, split, chat = made.remarks()
    assert quantised.startswith("its weights were quantised (Q8_0): what that has cost cannot be undone")
    assert "the way `smollm`" in split
    assert "template.name" in chat
    off = (logits(loaded(made.folder)) - logits(model)).abs().max()
    assert 0 < off < 0.1 * logits(model).abs().max()


def test_what_is_no_whole_gguf_file_is_told(make_llama: Make, tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", small(make_llama)).read_bytes()
    for name, data, said in (("text.gguf", b"hello", "text.gguf is not a GGUF file: it begins with b'hell'"),
                             ("empty.gguf", b"", "empty.gguf is not a GGUF file"),
                             ("header.gguf", whole[:900], "header.gguf is cut off, or damaged: it ends at 900 bytes"),
                             ("weights.gguf", whole[:-1000], "weights.gguf is cut off, or damaged: it ends at"),
                             ("old.gguf", whole[:4] + b"\1\0\0\0" + whole[8:], "version 1 .*gguf reads 2 and 3")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=said):
            import_gguf(tmp_path / name, tmp_path / "made")
    with pytest.raises(ModelError, match="none.gguf cannot be read: No such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_models_that_transformers_cannot_read_are_told(make_llama: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", small(make_llama), architecture="mamba9")
    with pytest.raises(ModelError, match=r"\(architecture mamba9\).*It reads .*llama.*safetensors instead"):
        import_gguf(file, tmp_path / "made")
    file = write(tmp_path / "half.gguf", small(make_llama), skip="layers.1.mlp.up_proj")
    with pytest.raises(ModelError, match=r"no weights for 1 parameters .*first: model.layers.1.mlp.up_proj.weight"):
        import_gguf(file, tmp_path / "made")


def test_a_folder_that_exists_stays_as_it_is(make_llama: Make, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(ModelError, match="made is there already; name another folder"):
        import_gguf(write(tmp_path / "m.gguf", small(make_llama)), tmp_path / "made")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot write the folder .*name another folder"):
        import_gguf(tmp_path / "m.gguf", tmp_path / "file" / "made")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"needs the package gguf: pip install 'sft-platform\[gguf\]'"):
        import_gguf(tmp_path / "m.gguf", tmp_path / "made")


@pytest.mark.skipif(not REAL.is_file(), reason="SFT_REAL_GGUF names no file")
def test_a_real_file_says_where_paris_is(tmp_path: Path) -> None:
    folder = import_gguf(REAL, tmp_path / "made").folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), loaded(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                        add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1]:]
    assert "Paris" in tokenizer.decode(answer)
