"""The mask viewer shows exactly what is trained."""

from __future__ import annotations

from sft_core.config.data import TemplateSection
from sft_core.render import Rendered, Renderer
from sft_core.show import Piece, spans_of, to_html, to_rich
from sft_core.templates.choose import choose


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
