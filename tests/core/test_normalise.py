"""Texts are put right, what is meant as it stands comes through, and doing it twice is doing it once."""

from __future__ import annotations

import json
import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_core.config.normalise import Normalisation, NormaliseSection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.data.curate.normalise import Normalised, normalise

ALL = NormaliseSection().kinds
ASKED = Turn("user", "Say it.")


def answered(text: str, kinds: tuple[Normalisation, ...] = ALL, question: str = ASKED.content) -> Normalised:
    turns = (Turn("user", question), Turn("assistant", text))
    return normalise(Conversation(turns, Origin("s", "f.jsonl", 1)), kinds)


def said(text: str, kinds: tuple[Normalisation, ...] = ALL, question: str = ASKED.content) -> str:
    return answered(text, kinds, question).conversation.turns[1].content


REPAIRS: tuple[tuple[Normalisation, str, str], ...] = (
    ("encoding", "I donâ€™t know the cafÃ© â€œMÃ¼llerâ€\x9d.", "I don’t know the café “Müller”."),
    ("encoding", "schÃ¶n\n“schön” bleibt", "schön\n“schön” bleibt"),
    ("line_ends", "one\r\ntwo\rthree\u2028four\u2029five\x0bsix\x0cseven", "one\ntwo\nthree\nfour\nfive\nsix\nseven"),
    ("control", "\ufeffHi\x00 th\u00adere\u200b, \x1b[31mred\x1b[0m\u2060 end\x7f", "Hi there, red end"),
    ("control", "pass\u202ewordword\u202c and \u200emark", "passwordword and mark"),
    ("control", "hidden\U000e0041\U000e0042 tag", "hidden tag"),
    ("control", "a\u200db \u200cc", "ab c"),
    ("unicode", "cafe\u0301 A\u030a", "café Å"),
    ("html", "Fish &amp; chips&nbsp;cost &lt; 5 &euro; &#8211; &#x27;now&#x27;", "Fish & chips cost < 5 € – 'now'"),
    ("html", "a star<br>\nlet it spark<br/>It is<BR />so", "a star\nlet it spark\nIt is\nso"),
    ("html", "<p>First.</p>\n<p>Second.</p>", "First.\n\nSecond."),
    ("html", "AT&amp;amp;T and fish &amp; chips", "AT&T and fish & chips"),
    ("html", "Sleep well &amp; breathe; R&amp;B costs &pound;5 a month (&quot;or less&quot;).",
     'Sleep well & breathe; R&B costs £5 a month ("or less").'),
    ("html", "He said, &quot;a cat&quot;; I'm &lt; 5 [&hellip;]", 'He said, "a cat"; I\'m < 5 […]'),
    ("html", "Words like &quot;cat&quot;, &quot;dog&quot; and &quot;cow&quot;.", 'Words like "cat", "dog" and "cow".'),
)
MEANT = (
    "“curly” ‘quotes’ ｆｕｌｌ ﬁne x² ½ … – — « » ¿",
    "Ça va? Über naïve Ångström, 10 °C, €5, ©, ±, №",
    "می‌خواهم", "क्‍ष और र्‍य", "👩‍👩‍👧 👍🏽 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☝️", "שלום\u200f!", "ภาษา\u200bไทย", "한국어 日本語 中文 ｶﾅ",
    "tab\there\n\nand lines", "x < 5 and y > 3 & z", "&notanentity; &; &#; R&D; Q&A", "&#0; &#xFFFF;", "a <b and c> d",
    "Use `&amp;` here.", "```\n&lt;p&gt;\n```", "<div><p>One</p><br></div>", "&lt;b&gt;bold&lt;/b&gt;",
    "| a<br>b | c |", "Escape an ampersand as &amp; in a page.", "The entity &nbsp; keeps words together.",
)
CODE = (
    'return s.replace("&", "&amp;").replace("<", "&lt;")', "sed 's/&amp;/and/' page.txt", 'const NBSP = "&nbsp;";',
    'htmlspecialchars_decode("&quot;x&quot;")', "xmllint says: &amp;lt; is wrong", 'puts "Fish &amp; chips"',
    "case '&': out += \"&amp;\"; break;", 'String s = title + " &amp; more";', "$title = 'Fish &amp; chips';",
    "for (char c : s) {\n  if (c == x) b.append(AMP);  // &amp;\n}",
    "def plain(s):\n    # undoes &lt; and &gt;\n    pass",
    "SELECT name FROM bands WHERE name = 'Rock &amp; Roll'", "grep -c '&amp;' notes.txt",
    "curl -s x.org | tr -d '&nbsp;'", '{"title": "Fish &amp; chips"}',
    "x <- gsub('&lt;', '<', x)", "(replace s \"&\" \"&amp;\")", "if (a &lt; b) go();",
    'strings.ReplaceAll(s, "&", "&amp;")', "my $t = join ' &amp; ', @names;", "'<' => out.push_str(\"&lt;\"),",
    "std::string s = f(x, \"&gt;\");", "import re\nAMP = '&amp;'", '  "Fish &amp; chips",\n  "Peas",',
    "Why is there &#39; in my titles?", "My feed shows &quot; instead of quotes.", "&gt; is what I got.",
    "Q&A is Q&amp;A.",
)


@pytest.mark.parametrize(("kind", "before", "after"), REPAIRS)
def test_is_put_right_by_its_own_kind_alone(kind, before, after):
    assert said(before) == said(before, (kind,)) == after
    assert {change.kind for change in answered(before).changes} == {kind}
    assert said(before, tuple(one for one in ALL if one != kind)) != after


@pytest.mark.parametrize("text", MEANT + CODE)
def test_what_is_meant_stays(text):
    done = answered(text)
    assert done.conversation.turns[1].content == text
    assert not done.changes


def test_nothing_to_do_gives_the_same_object():
    conversation = Conversation((ASKED, Turn("assistant", "Ünder & over <3")), Origin("s", "f.jsonl", 1))
    assert normalise(conversation, ALL).conversation is conversation
    spoilt = Conversation((ASKED, Turn("assistant", "a\r\nb&amp;cafe\u0301")), Origin("s", "f.jsonl", 1))
    assert normalise(spoilt, ()).conversation is spoilt


@pytest.mark.parametrize(("question", "answer"), [
    ("What does this mojibake mean?", "donâ€™t"),
    ("Which code points hold cafe\u0301, in NFD?", "Five: e\u0301 is two."),
    ("Is there a zero-width space?", "Yes: a\u200bb"),
    ("Write HTML for me.", "<p>Hello</p>"),
    ("How do I escape this in XML?", "Fish &amp; chips"),
    ("Edit this web page.\n<p>Hi</p>", "Ho"),
    ("What does s.replace('&', '') do?", "It turns Fish &amp; chips into Fish chips."),
    ("Call escape_all(x) for me.", "Fish &amp; chips"),
    ("Which names has toXmlText?", "Fish &amp; chips"),
    ("Write a note, using <br> to separate lines.", "Hi<br>Bye"),
])
def test_conversations_about_such_things_stay(question, answer):
    assert not answered(answer, question=question).changes


def test_programs_read_tool_calls_and_json_stays_json():
    arguments = '{"text": "cafÃ© &amp; b\\u200bar\\r\\n", "n": 1.50,  "cafÃ©": ["x\\/y", true], "e": "\\u2019"}'
    result = '{"page": "a &amp; b<br>c\r\n"}'
    tools = json.dumps([{"name": "find", "description": "Finds cafÃ©s &amp; bars"}], ensure_ascii=False)
    turns = (ASKED, Turn("assistant", "", (ToolCall("find", arguments),)), Turn("tool", result), Turn("assistant", "k"))
    done = normalise(Conversation(turns, Origin("s", "f.jsonl", 1), tools), ALL).conversation
    assert done.turns[1].tool_calls == (ToolCall(
        "find", '{"text": "café &amp; bar\\r\\n", "n": 1.50,  "cafÃ©": ["x\\/y", true], "e": "\\u2019"}'),)
    assert done.turns[2].content == result
    assert json.loads(done.tools or "") == [{"name": "find", "description": "Finds cafés &amp; bars"}]
    assert done.turns[3] is turns[3]


def test_escapes_stay_escapes():
    call = ToolCall("find", '{"text": "caf\\u00c3\\u00a9"}')
    done = normalise(Conversation((ASKED, Turn("assistant", "", (call,))), Origin("s", "f.jsonl", 1)), ALL)
    assert done.conversation.turns[1].tool_calls[0].arguments == '{"text": "caf\\u00e9"}'


@pytest.mark.parametrize("nothing", ["\u200b\ufeff", "<br>", "<p></p>", "\x00"])
def test_an_answer_of_which_nothing_would_be_left_stays_and_is_counted(nothing):
    done = answered(nothing)
    assert done.conversation.turns[1].content == nothing
    assert [change.kind for change in done.changes] == ["kept"]


def test_changes_can_be_read():
    long = "x" * 500
    changes = answered(f"{long} a\u200bb {long}\r\n").changes
    assert [(change.kind, change.where) for change in changes] == [
        ("line_ends", "turn 2 (assistant)"), ("control", "turn 2 (assistant)")]
    assert "a<U+200B>b" in changes[1].before
    assert "ab" in changes[1].after
    assert all(len(change.before) < 120 for change in changes)


def test_a_huge_text_takes_no_time_by_the_square():
    text = "<p>" + " " * 300_000 + "<br>" + "| " * 200_000 + "\x1b[" + "&#x200b;" * 20_000 + "\u200b" * 100_000
    began = time.perf_counter()
    assert answered(text).changes
    assert time.perf_counter() - began < 10


def test_one_repair_uncovers_another():
    assert said("Fish &a\u200bmp; ch&#x200b;ips cafe&#x301;") == "Fish & chips café"


PIECES = st.sampled_from([
    "â€™", "Ã©", "Ã\x83Â©", "&amp;", "&lt;", "&gt;", "p", "br", "<br>", "<p>", "</p>", "&#x200b;", "&#8217;", ";", "&",
    "#", "x41", "\r", "\n", "\x85", "\u2028", "\x1b[1m", "\x1b", "[", "\u200b", "\u200c", "\u200d", "\u200e", "\u202e",
    "\u2060", "e\u0301", "\u0301", "a", " ", "म", "ی", "ไ", "👩", "\ufe0f", "🏴", "\U000e0067", "html", "`",
    "|", "\\", '"',
])


@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=12).map("".join))
def test_twice_is_once(text):
    once = answered(text or "x")
    twice = normalise(once.conversation, ALL)
    assert twice.conversation is once.conversation
    assert {change.kind for change in twice.changes} <= {"kept"}
    assert once.conversation.turns[1].content.strip() or not text.strip()


@given(st.recursive(st.text(max_size=8) | PIECES | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6), st.booleans())
def test_json_stays_valid_with_its_keys(value, escaped):
    call = ToolCall("f", json.dumps({"a": value}, ensure_ascii=escaped))
    conversation = Conversation((ASKED, Turn("assistant", "", (call,))), Origin("s", "f.jsonl", 1))
    done = json.loads(normalise(conversation, ALL).conversation.turns[1].tool_calls[0].arguments)
    assert shape(done) == shape({"a": value})


def shape(value: object) -> object:
    """All of it but what strings say."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


def test_every_kind_can_be_asked_for():
    assert set(ALL) == set(get_args(Normalisation)) == {kind for kind, _, _ in REPAIRS}
