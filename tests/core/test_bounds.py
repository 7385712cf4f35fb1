"""Templates of strangers: each ends within its bounds, in one sentence; honest ones do not notice."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from eval_suites.backends.generate import prompt_ids
from eval_suites.suites.chat_item import ChatItem
from sft_core.config.data import TemplateSection
from sft_core.conversation import Conversation, Origin, Turn
from sft_core.errors import TemplateError
from sft_core.templates import bounds
from sft_core.templates.choose import choose
from sft_core.templates.messages import Form, TemplateRefused, messages_of, render
from sft_core.templates.render import Renderer

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TWICE = "{{% set ns = namespace(x={0}) %}}{{% for i in range(60) %}}{{% set ns.x = {1} %}}{{% endfor %}}"
HOSTILE = {
    "computes for more than": [
        LOOPS, "{% generation %}" + LOOPS + "{% endgeneration %}",
        "{% for a in range(99999) if range(99999)|sum and false %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% for a in range(99999) %}{% call m() %}{% endcall %}{% endfor %}",
        "{% set x = 'a' * 10**6 %}{{ ([x] * 99999)|map('upper')|map('length')|sum }}",
        "{% set x = 'a' * 10**6 %}{{ ([x] * 99999)|select('lower')|list }}"],
    "MiB of memory": [
        "{{ 'x' * 10**9 }}", '{{ "%1000000000d" % 1 }}', '{{ "{:2000000000}".format(1) }}', "{{ 'x'.ljust(10**9) }}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}", "{{ ('a' * 10**6)|join('b' * 10**6) }}",
        "{% set x = 'xx' %}" + "{% set x = x ~ x %}" * 60,
        TWICE.format("'xx'", "ns.x ~ ns.x"), TWICE.format("[1]", "ns.x + ns.x"), "{{ [1]|tojson(indent=10**9) }}"],
    "writes more than": ["{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}"],
    "integers of more than": ["{{ 10**(10**8) }}", TWICE.format("3**2000", "ns.x * ns.x"),
                              "{{ ('f' * 10**6)|int(base=16) % 7 }}"],
    "gives": ["{{ 'x'|center(2000000000) }}", "{{ 'x'|indent(width=10**9) }}", "{{ ('x' * 10**6)|wordwrap(1) }}",
              "{{ 1|round(1000000000, 'ceil') }}", "{{ []|slice(10**10)|max }}", "{{ ('x' * 20000000)|unique|list }}"],
    "looks for": ["{{ ('a' * 10**7).rfind('b' + 'a' * 10**6) }}", "{{ ('a' * 10**7)['rsplit']('b' + 'a' * 10**6) }}"],
    "characters itself": ["{{ 1 }}" * 40_000],
}
HONEST = ("{% for m in messages %}{% if loop.index0 % 2 and m.role %}{% generation %}{{ m.content|trim * 1 }}"
          "{% endgeneration %}{% else %}{{ m['content'].rsplit('x', 1)[0] + '|' ~ m|tojson(indent=1)|length }}"
          "{% endif %}{% endfor %}")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    monkeypatch.setattr(bounds, "MEMORY", 256 << 20)
    monkeypatch.setattr(bounds, "_FRESH_S", 0.0)


def turns() -> list[dict[str, Any]]:
    return messages_of([Turn("user", "hix"), Turn("assistant", " yes ")], Form())


@pytest.mark.parametrize(("why", "jinja"), [(why, one) for why, many in HOSTILE.items() for one in many])
def test_it_ends_in_one_sentence(why: str, jinja: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(TemplateError, match=f"the chat template .*{why}.* was stopped; do not use it before"):
        render(jinja, (), turns(), None, marked="generation" in jinja)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize("jinja", ["{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ lipsum(10**9) }}",
                                   "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
                                   "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"])
def test_what_python_itself_refuses(jinja: str) -> None:
    with pytest.raises(TemplateRefused, match="the chat template refuses these turns"):
        render(jinja, (), turns(), None)


@pytest.mark.parametrize("hostile", [LOOPS, "{{ 'x' * 10**9 }}", "{{ 'x'|center(1000000000) }}",
                                     "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"])
def test_a_models_own_is_refused_before_any_row(byte_tokenizer: Any, hostile: str) -> None:
    with pytest.raises(TemplateError, match="was stopped|nested too deeply"):
        choose(TemplateSection(name="model"), byte_tokenizer(chat_template=hostile))


def test_one_that_waits_for_a_word_in_the_data(byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying a template out says nothing about later rows: training and evaluation are stopped there."""
    jinja = ("{% for m in messages %}{% if 'now' in m.content %}" + LOOPS + "{% endif %}{{ '<|im_start|>' + m.role }}\n"
             "{{ m.content + '<|im_end|>' }}\n{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}\n"
             "{% endif %}")
    section = TemplateSection(name="model")
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", chat_template=jinja)
    renderer = Renderer(choose(section, tokenizer), tokenizer, section)
    later, now = (Conversation((Turn("user", one), Turn("assistant", "yes")), Origin("s", "s", 1))
                  for one in ("later", "now"))
    assert len(list(renderer.render_many([later]))) == 1
    with pytest.raises(TemplateError, match="computes for more than"):
        list(renderer.render_many([later, now]))
    item = ChatItem("1", "s", "1", [{"role": "user", "content": "now"}], None, {})
    with pytest.raises(TemplateError, match="computes for more than"):
        prompt_ids(tokenizer, item, jinja)


def test_an_honest_one_writes_what_it_writes_in_plain_jinja() -> None:
    rendering = render(HONEST, (), turns(), None, marked=True)
    assert rendering.text == "hi|38yes"
    assert [rendering.text[slice(*mark)] for mark in rendering.marks] == ["yes"]
    assert render(HONEST, (), turns(), None).text == rendering.text


def test_the_clock_and_the_ceiling_begin_anew_with_every_text() -> None:
    """They are of one text: many honest ones take as long as they take, and may be kept."""
    jinja = "{% for i in range(20000) %}{% endfor %}{{ messages[0].content * 10**7 }}"
    kept = [render(jinja, (), turns(), None).text for _ in range(20)]
    assert sum(map(len, kept)) > bounds.MEMORY
