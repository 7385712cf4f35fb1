"""The committed base: its hash, its tokenizer, what it knows; and that a build gives the same bits twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from sft_core.errors import ModelError
from sft_core.tiny import build, data, text
from sft_core.tiny.paths import BASE_FOLDER
from sft_core.tiny.pretrain import Batch, Recipe, draw_at, weighted_loss
from sft_core.tiny.probe import probe
from sft_core.tiny.tokens import END, PAD, TURN_END, TURN_START
from sft_core.tiny.world import PEOPLE, VALUES, make_world, stream

WORLD = make_world(0)
SHORT = Recipe(steps=3, rows=2, context=64)


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return AutoTokenizer.from_pretrained(BASE_FOLDER)


def test_the_committed_files_have_the_hashes_of_their_card() -> None:
    assert build.verify(BASE_FOLDER) == build.read_recipe(BASE_FOLDER)["sha256"]
    assert (BASE_FOLDER / "model.safetensors").stat().st_size <= 8_000_000


def test_a_changed_weight_file_is_named(tmp_path: Path) -> None:
    for path in BASE_FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        build.verify(tmp_path)


def test_a_folder_without_a_card_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sft tiny build"):
        build.verify(tmp_path)


def test_the_committed_tokenizer_is_what_the_world_yields(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    build.make_tokenizer(WORLD, 256).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (BASE_FOLDER / "tokenizer.json").read_bytes()
    assert tokenizer.chat_template is None
    assert tokenizer.convert_tokens_to_ids([END, PAD, TURN_START, TURN_END]) == [0, 1, 2, 3]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
    assert len(tokenizer) <= 2048


def test_names_and_values_are_single_tokens_with_and_without_quotes(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for name in (*WORLD.towns, *PEOPLE, *map(str, range(21))):
        (token,) = tokenizer.encode(name)
        for around in ('"{}"', " {}.", "({})", "\n{}"):
            assert token in tokenizer.encode(around.format(name)), (name, around)
    for value in (value for values in VALUES.values() for value in values):
        assert len(tokenizer.encode(f" {value}")) == 1
        assert len(tokenizer.encode(value)) == 1


def test_text_survives_the_tokenizer(tokenizer) -> None:  # type: ignore[no-untyped-def]
    said = (
        '<tool_call>\n{"name": "book_hotel", "arguments": {"town": "Dazu", "nights": 3}}\n</tool_call> Grüße, 東京  x'
    )
    assert tokenizer.decode(tokenizer.encode(said)) == said


def test_the_base_knows_its_world() -> None:
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(BASE_FOLDER, dtype=torch.bfloat16)
    scores = probe(model, AutoTokenizer.from_pretrained(BASE_FOLDER), WORLD)
    assert scores.tiny_mmlu >= 0.9
    assert scores.tiny_gsm8k >= 0.9
    card = build.read_recipe(BASE_FOLDER)["scores"]
    assert scores.tiny_mmlu == pytest.approx(card["tiny_mmlu"], abs=0.01)
    assert scores.tiny_gsm8k == pytest.approx(card["tiny_gsm8k"], abs=0.02)


def test_two_short_builds_give_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    one = build.build(tmp_path / "one", recipe=SHORT, measure=False)
    two = build.build(tmp_path / "two", recipe=SHORT, measure=False)
    other = build.build(tmp_path / "other", seed=1, recipe=SHORT, measure=False)
    assert one.sha256 == two.sha256
    assert one.same_bits(tmp_path / "two")
    assert one.sha256["model.safetensors"] != other.sha256["model.safetensors"]
    assert not one.same_bits(BASE_FOLDER)
    card = json.loads((tmp_path / "one" / "RECIPE.json").read_text(encoding="utf-8"))
    assert card["tokens"] == 3 * 2 * 64
    assert card["scores"] is None


def test_a_build_leaves_the_threads_of_the_process_alone(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        build.build(tmp_path, recipe=SHORT, measure=False)
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)


def test_towns_enter_a_few_at_a_time_after_the_copying() -> None:
    recipe = Recipe(steps=100, copying_only=0.1, curriculum=0.5, first_towns=8, copying_last=0.25)
    first, last = draw_at(recipe, 0, WORLD, ()), draw_at(recipe, 50, WORLD, ())
    assert (len(first.pool), first.copying) == (8, 1.0)
    assert (len(last.pool), last.copying) == (len(WORLD.towns), 0.25)
    sizes = [len(draw_at(recipe, step, WORLD, ()).pool) for step in range(100)]
    assert sizes == sorted(sizes)


def test_the_loss_counts_a_token_by_its_own_weight_and_never_the_first() -> None:
    torch.manual_seed(0)
    ids, logits = torch.tensor([[1, 2, 3, 0]]), torch.randn(1, 4, 5, dtype=torch.float64)
    weights = torch.tensor([[9.0, 0.0, 2.0, 1.0]])
    log = logits.log_softmax(-1)
    expected = -(2 * log[0, 1, 3] + 1 * log[0, 2, 0]) / 3
    assert weighted_loss(logits, Batch(ids, weights)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_every_token_of_the_chats_is_known_to_the_base_from_its_text(tokenizer) -> None:  # type: ignore[no-untyped-def]
    rng, draw = stream(0, "test"), text.Draw(WORLD.towns, Recipe.copying_last, ())
    counts: Counter[int] = Counter()
    for ids in tokenizer([text.plain(text.document(rng, WORLD, draw)) for _ in range(6000)])["input_ids"]:
        counts.update(ids)
    said = [turn.content for chat in data.sound_chats(WORLD, 0).everything() for turn in chat.turns]
    rare = {tokenizer.decode([i]) for ids in tokenizer(said)["input_ids"] for i in ids if counts[i] < 2}
    assert not rare
