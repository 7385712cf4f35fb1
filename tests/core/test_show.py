"""The mask viewer shows exactly what is trained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sft_core.config.data import TemplateSection
from sft_core.conversation import Origin
from sft_core.data.show import Piece, Segment, View, spans_of, telling, to_html, to_rich, view_to_html, view_to_rich
from sft_core.templates.choose import choose
from sft_core.templates.render import IGNORE, Example, Rendered, Renderer


def example(tokenizer, conversation):
    section = TemplateSection(name="chatml")
    found = Renderer(choose(section, tokenizer), tokenizer, section).render(conversation)
    assert isinstance(found, Rendered)
    return found.examples[0]


def test_pieces(tokenizer, chat):
    pieces = spans_of(example(tokenizer, chat("u: hi", "a: <b>ö</b>")), tokenizer)
    assert pieces == [
        Piece("<|im_start|>", "special"), Piece("user\nhi", "context"), Piece("<|im_end|>", "special"),
        Piece("\n", "context"), Piece("<|im_start|>", "special"), Piece("assistant\n", "context"),
        Piece("<b>ö</b><|im_end|>", "trained"), Piece("\n", "context"),
    ]
    assert to_rich(pieces).plain == "".join(piece.text for piece in pieces)
    assert {str(span.style) for span in to_rich(pieces).spans} == {"bold green", "dim", "cyan"}


def test_html_is_escaped(tokenizer, chat):
    page = to_html(spans_of(example(tokenizer, chat("u: <script>", "a: <b>ö</b>")), tokenizer))
    assert '<span class="trained">&lt;b&gt;ö&lt;/b&gt;&lt;|im_end|&gt;</span>' in page
    assert "<script>" not in page


def test_a_terminal_is_not_told_to_do_things(tokenizer, chat):
    pieces = spans_of(example(tokenizer, chat("u: \x1b[2Jhi\r\tthere", "a: \x07")), tokenizer)
    assert "\x1b" in "".join(piece.text for piece in pieces)
    assert "␛[2Jhi␍\tthere" in to_rich(pieces).plain
    assert "␇" in to_html(pieces)
    assert not {"\x1b", "\r", "\x07"} & set(to_rich(pieces).plain + to_html(pieces))


def test_calls_results_and_thoughts(tokenizer, chat):
    conversation = chat("u: go", 'c: f {"a": null}', "t: 3", "a: <think>\nhm\n</think>\n\nthree",
                        tools=[{"name": "f"}])
    kinds = {piece.text: piece.kind for piece in spans_of(example(tokenizer, conversation), tokenizer)}
    assert kinds['<tool_call>\n{"name": "f", "arguments": {"a": null}}\n</tool_call><|im_end|>'] == "trained"
    assert kinds["<think>\nhm\n</think>\n\nthree<|im_end|>"] == "trained"
    assert kinds["tool\n3"] == "context"
    assert any('"name": "f"' in text and kind == "context" for text, kind in kinds.items())


def test_spaces_in_front_of_words_stay(chat):
    """A SentencePiece-like decoder drops the space in front of what it decodes alone."""
    inner = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "▁c": 2, "</s>": 3}, unk_token="</s>"))
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    shown = spans_of(Example([0, 1, 2, 3], [IGNORE, 2, 3, IGNORE], Origin("s", "f", 1)), tokenizer)
    assert shown == [Piece("a b", "context"), Piece(" c</s>", "trained")]


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.text(min_size=1, max_size=12))
def test_the_pieces_are_the_whole_text(tokenizer, trained, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    targets = [1 if trained[at % len(trained)] else IGNORE for at in range(len(ids))]
    pieces = spans_of(Example(ids, targets, Origin("s", "f", 1)), tokenizer)
    if "\ufffd" not in "".join(piece.text for piece in pieces):
        assert "".join(piece.text for piece in pieces) == text


def test_a_packed_row(tokenizer, chat):
    first, second = (example(tokenizer, chat(f"u: {name}", "a: <yes>", line=at)) for at, name in ((4, "x"), (9, "y")))
    view = View(2, (Segment(17, first), Segment(3, second)), width=200)
    tokens = len(first.input_ids)
    assert view.head == f"row 2 · 2 examples · {2 * tokens} of 200 tokens ({tokens:.1f} % filled)"
    text = view_to_rich(view, tokenizer).plain
    places = [text.index(part) for part in (
        "── segment 1 · #17 · f.jsonl:4", "x<|im_end|>", "── segment 2 · #3 · f.jsonl:9", "y<|im_end|>",
        f"{200 - 2 * tokens} tokens of padding")]
    assert places == sorted(places)
    page = view_to_html(view, tokenizer)
    assert page.count('<pre class="example">') == page.count("── segment") == 2
    assert "&lt;yes&gt;" in page
    full = view._replace(width=2 * tokens)
    assert "padding" not in view_to_rich(full, tokenizer).plain + view_to_html(full, tokenizer)
    alone = View(17, (Segment(17, first),))
    shown = view_to_rich(alone, tokenizer).plain
    assert shown.startswith(f"\n#17 · f.jsonl:4 · {tokens} tokens, 6 trained\n<|im_start|>")
    assert "──" not in view_to_html(alone, tokenizer)


def test_the_examples_that_show_most_are_chosen_and_it_says_why():
    def one(line, *targets):
        return Example([1] * len(targets), list(targets), Origin("s", "rows.jsonl", line))

    several, long = one(3, 5, IGNORE, 5), one(4, IGNORE, 5, 5, 5)
    assert telling([one(1, 5), one(2, 5), several, long, one(5, IGNORE), one(5, 5)]) == [
        (0, "the first"), (3, "the longest"), (4, "a part of a row"), (2, "several trained answers")]
    assert telling([several, one(2, 5)]) == [(0, "the first, the longest, several trained answers")]
    assert telling([]) == []
    assert View(0, (Segment(0, several),), why="the first").head.endswith("3 tokens, 2 trained · the first")
