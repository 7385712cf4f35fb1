"""Readable fakes for the data room: a tokenizer whose ids are bytes, and short ways to write conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sft_core.config.data import Repair, SourceSection
from sft_core.conversation import Conversation, Origin, Rejected, ToolCall, Turn
from sft_core.data.holdout import held_out, place
from sft_core.data.intake import Taken, take_in
from sft_core.templates.render import IGNORE, Example

EOS, PAD, START, STOP = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"  # ids 256 to 259
REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A file of the shared data folder, or a skip that says which is missing."""

    def find(name: str) -> Path:
        path = REAL_DATA / name
        if not path.exists():
            pytest.skip(f"needs {path}")
        return path

    return find


class Read(NamedTuple):
    """All of a source at once."""

    conversations: list[Conversation]
    rejected: list[Rejected]
    rows: int


class Halves(NamedTuple):
    """Conversations in their old order."""

    train: list[Conversation]
    validation: list[Conversation]


@pytest.fixture(scope="session")
def split() -> Callable[..., Halves]:
    """Conversations parted as `place` and `held_out` say."""

    def part(conversations: Sequence[Conversation], share: float, seed: int,
             clusters: Iterable[Hashable] | None = None) -> Halves:
        sides = held_out([place(one, seed) for one in conversations], share, clusters)
        both = list(zip(conversations, sides, strict=True))
        return Halves([one for one, out in both if not out], [one for one, out in both if out])

    return part


@pytest.fixture
def read_whole(tmp_path: Path) -> Callable[..., Read]:
    """Everything that `take_in` makes of a source."""

    def read(source: SourceSection, repair: Sequence[Repair] = ()) -> Read:
        taken = Taken()
        found = list(take_in(source, taken, scratch=tmp_path / "scratch", mirror=None, repair=repair))
        return Read([one for one in found if isinstance(one, Conversation)],
                    [one for one in found if isinstance(one, Rejected)], taken.rows)

    return read


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes tokenizers whose id is the byte itself (`ord` for ASCII); added tokens follow from 256 on."""

    def make(*more: str, chat_template: str | None = None, plain: tuple[str, ...] = (), **names: Any
             ) -> PreTrainedTokenizerFast:
        letters = bytes_to_unicode()
        inner = Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([AddedToken(text, normalized=False) for text in (EOS, PAD, START, STOP, *more)])
        inner.add_tokens([AddedToken(text, normalized=False) for text in plain])
        names = {"eos_token": EOS, "pad_token": PAD, **names}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(byte_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def chat() -> Callable[..., Conversation]:
    """`chat("s: be kind", "u: hi", "a: hello", "c: name {json}", "t: result")` as a conversation."""

    def make(*lines: str, tools: list[dict[str, Any]] | None = None, line: int = 1, source: str = "s") -> Conversation:
        return Conversation(tuple(_turn(text) for text in lines), Origin(source, "f.jsonl", line),
                            json.dumps(tools) if tools else None)

    return make


def _turn(text: str) -> Turn:
    kind, _, content = text.partition(": ")
    if kind == "c":
        name, _, arguments = content.partition(" ")
        return Turn("assistant", "", (ToolCall(name, arguments),))
    roles: dict[str, Any] = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return Turn(roles[kind], content)


@pytest.fixture(scope="session")
def trained() -> Callable[..., str]:
    """The trained tokens of an example as one text."""

    def read(example: Example, tokenizer: PreTrainedTokenizerFast) -> str:
        return str(tokenizer.decode([target for target in example.targets if target != IGNORE]))

    return read


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSON Lines into a file of the test's folder."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
