"""Personal data and secrets: what is found of a labelled set, what becomes of it, and what stays as it was."""

from __future__ import annotations

import json
import pickle
import random
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sft_core.config.pii import PiiKind, PiiSection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn, Why
from sft_core.data.curate.pii import names
from sft_core.data.curate.pii.finder import Finder
from sft_core.data.curate.pii.measure import Score, labelled, marked, measure
from sft_core.data.curate.pii.redact import facts, fault, redact, total
from sft_core.data.curate.pii.span import Span, apart
from sft_core.data.ledger import POLICY
from sft_core.errors import ConfigError

ROWS = list(labelled(Path(__file__).parent / "pii.jsonl"))
EVERYTHING = PiiSection(allow=())
FINDER = Finder(EVERYTHING)
FLOOR = {"key": 0.95, "iban": 0.98, "card": 0.98, "id": 0.98, "email": 0.95, "phone": 0.98, "ip": 0.98}
JO, SAM, CARD = "jo@mail.example", "sam@mail.example", "4111111111111111"


def found(text: str, section: PiiSection = EVERYTHING) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in Finder(section).find(text)]


class TestLabelledSet:
    @pytest.fixture(scope="class")
    def scores(self) -> dict[PiiKind, Score]:
        return measure(ROWS, FINDER)

    @pytest.mark.parametrize("kind", FLOOR)
    def test_precision_and_recall(self, scores, kind):
        score = scores[kind]
        assert score.hits + score.missed >= 40
        assert score.f1 >= FLOOR[kind], score
        assert score.precision >= 0.96
        assert score.recall >= 0.94

    def test_every_kind_has_hard_negatives(self):
        lines = (Path(__file__).parent / "pii.jsonl").read_text(encoding="utf-8").splitlines()
        plain = [json.loads(line)["of"] for line in lines if "[[" not in line]
        assert all(plain.count(kind) >= 30 for kind in get_args(PiiKind))

    def test_a_finder_of_nothing_has_no_score(self):
        score = measure(ROWS, Finder(PiiSection(kinds=())))["email"]
        assert (score.precision, score.recall, score.f1) == (None, 0.0, 0.0)
        assert measure([], FINDER)["ip"].f1 is None

    def test_marks_are_places_of_the_text_without_them(self):
        row = marked("a¦b [[ip|192¦.0.2.1]] c [[card|x]]")
        assert row.text == "ab 192.0.2.1 c x"
        assert row.marks == {("ip", 3, 12), ("card", 15, 16)}


class TestFinder:
    def test_values_are_in_one_form(self):
        texts = ["+44 20 7946 0958", "+442079460958", "0044 20 7946 0958"]
        assert {FINDER.find(f"Tel. {text}")[0].value for text in texts} == {"+442079460958"}
        assert FINDER.find("(202) 555-0143")[0].value == FINDER.find("+1 202 555 0143")[0].value
        assert FINDER.find("card 4111-1111-1111-1111")[0].value == CARD
        assert FINDER.find("Jo@MAIL.example")[0].value == JO
        assert FINDER.find("jo (at) mail (dot) example")[0].value == JO

    def test_what_is_reserved_for_documentation_stays_by_default(self):
        text = ("jane@example.com, a@b.test, 192.0.2.1, 2001:db8::5, ping 8.8.8.8, +1 202 555 0143, "
                f"{CARD}, info@firm.org")
        assert found(text, PiiSection()) == []
        assert [kind for kind, _ in found(text)] == ["email", "email", "ip", "ip", "ip", "phone", "card", "email"]

    def test_a_number_of_films_stays_without_its_area_too(self):
        assert found("phone +1 555 0100") == [("phone", "+1 555 0100")]
        assert found("phone +1 555 0100", PiiSection()) == []

    def test_two_ways_to_write_a_chinese_number_are_one_value(self):
        assert FINDER.find("手机 13800138000")[0].value == FINDER.find("电话：+86 138 0013 8000")[0].value

    def test_secrets_by_chance_are_found_behind_their_names(self):
        """Whatever chance strews in them: of 400 fewer than 1 in 40 is missed."""
        draw, signs = random.Random(0), string.ascii_letters + string.digits + "+/"
        missed = sum(not found(f"aws_secret_access_key = {''.join(draw.choices(signs, k=40))}") for _ in range(400))
        assert missed < 10

    def test_allow_matches_whole_values(self):
        section = PiiSection(allow=(r".+@mail\.example",))
        assert found(f"{JO} {JO}.org", section) == [("email", f"{JO}.org")]

    def test_only_the_kinds_asked_for(self):
        assert found(f"{JO} {CARD}", PiiSection(kinds=("card",), allow=())) == [("card", CARD)]

    def test_a_password_is_no_address(self):
        text = "postgres://app:k7Hq-2vLp9x@db.mail.example/orders"
        assert found(text) == [("key", "k7Hq-2vLp9x")]
        assert found(text, PiiSection(kinds=("email",), allow=())) == []

    def test_a_number_that_needs_a_word_needs_it_near(self):
        assert found("BSN 669600659") == [("id", "669600659")]
        assert found("669600659 is his BSN") == [("id", "669600659")]
        assert found("669600659") == []
        assert found(f"BSN {'x ' * 40}669600659") == []

    def test_keys_of_examples_are_none(self):
        assert found("AK" + "IAIOSFODNN7EXAMPLE") == []
        assert found("AK" + "IAIOSFODNN7EXAMPLA") != []
        assert found("postgres://app:password@host/db") == []

    def test_helplines_are_nobodys(self):
        assert found("Call 1-800-273-8255 or +1 800 273 8255 or +44 800 1111 111") == []

    def test_it_travels_to_workers(self):
        assert pickle.loads(pickle.dumps(FINDER)).find(JO) == FINDER.find(JO)

    def test_a_pattern_that_is_none_is_refused(self):
        with pytest.raises(ValidationError, match="is no regular expression"):
            PiiSection(allow=("(",))

    def test_off_is_a_word(self):
        assert PiiSection.model_validate({"action": False}).action == "off"


class TestApart:
    def test_the_longer_then_the_more_specific(self):
        long, short, card = Span("phone", 0, 9, "a"), Span("id", 2, 5, "b"), Span("card", 0, 9, "c")
        assert apart([short, long]) == [long]
        assert apart([long, card]) == [card]

    def test_a_name_gives_way(self):
        name, mail = Span("name", 0, 20, "jo"), Span("email", 3, 9, "x")
        assert apart([name, mail]) == [mail]

    @given(st.lists(st.tuples(st.sampled_from(get_args(PiiKind)), st.integers(0, 30), st.integers(1, 9))))
    def test_as_comparing_all_pairs(self, raw):
        spans = [Span(kind, start, start + length, "") for kind, start, length in raw]
        kept = apart(spans)
        assert kept == sorted(kept, key=lambda span: span.start)
        assert all(a.end <= b.start for a, b in zip(kept, kept[1:], strict=False))
        assert all(any(s.start < k.end and k.start < s.end for k in kept) for s in spans)


class TestFacts:
    def test_where_and_what_and_never_the_value(self, chat):
        talk = chat(f"u: I am {JO}", f'c: send {{"to": "{SAM}", "n": {CARD}}}', "t: ok", "a: done",
                    tools=[{"name": "send", "default": SAM}])
        [fact] = facts([talk], FINDER)
        assert fact.kinds == ("email", "email", "card", "email")
        assert fact.turns == (0, 1, 1, -1)
        assert fact.parts == ("content", "call 0", "call 0", "tools")
        texts = [talk.turns[0].content, talk.turns[1].tool_calls[0].arguments, talk.turns[1].tool_calls[0].arguments,
                 talk.tools]
        assert [text[a:b] for text, a, b in zip(texts, fact.starts, fact.ends, strict=True)] == [JO, SAM, CARD, SAM]
        assert fact.shown == ("jo…@…", "sa…@…", "41…", "sa…@…")
        assert fact.counts == {"email": 3, "card": 1}
        assert total([fact, fact]) == {"email": 6, "card": 2}

    def test_one_per_conversation_in_order(self, chat):
        got = facts([chat("u: hi", "a: yo"), chat(f"u: {JO}", "a: yo")], FINDER)
        assert [fact.kinds for fact in got] == [(), ("email",)]

    def test_a_value_with_escapes_is_found_and_placed_as_a_whole(self):
        call = ToolCall("f", r'{"a": "x\njo@mail.example"}')
        talk = Conversation((Turn("assistant", "", (call,)),), Origin("s", "f", 1))
        [fact] = facts([talk], FINDER)
        assert (fact.kinds, fact.starts, fact.ends) == (("email",), (7,), (25,))

    def test_the_key_of_a_value_names_it(self, chat):
        assert facts([chat("u: hi", 'c: f {"bsn": "669600659", "n": "669600659"}')], FINDER)[0].kinds == ("id",)
        assert facts([chat("u: hi", 'c: f {"bsn": ["669600659"]}')], FINDER)[0].kinds == ("id",)

    def test_a_key_that_is_a_hit_counts_once(self, chat):
        [fact] = facts([chat("u: hi", f'c: f {{"{JO}": "x"}}')], FINDER)
        assert (fact.kinds, fact.starts) == (("email",), (2,))


class TestFault:
    def test_drop_says_what_and_where_and_not_the_secret(self, chat):
        [fact] = facts([chat(f"u: hi {JO} {SAM}", "a: 192.0.2.7")], FINDER)
        why, detail = fault(fact, PiiSection(action="drop"))
        assert why is Why.PERSONAL_DATA
        assert detail == "holds email 2, ip 1 (first: jo…@… in turn 1)"
        assert Why.PERSONAL_DATA in POLICY

    @pytest.mark.parametrize("action", ["off", "report", "redact"])
    def test_other_actions_drop_nothing(self, chat, action):
        [fact] = facts([chat(f"u: hi {JO}", "a: yo")], FINDER)
        assert fault(fact, PiiSection(action=action)) is None

    def test_a_clean_row_stays(self, chat):
        assert fault(facts([chat("u: hi", "a: yo")], FINDER)[0], PiiSection(action="drop")) is None


class TestRedact:
    def test_the_same_value_has_the_same_number(self, chat):
        talk, counts = redact(chat(f"u: {JO} and {SAM}", f"a: {JO.upper()} it is, {CARD}"), FINDER)
        assert [turn.content for turn in talk.turns] == ["[EMAIL_1] and [EMAIL_2]", "[EMAIL_1] it is, [CARD_1]"]
        assert counts == {"email": 3, "card": 1}

    def test_everything_else_stays(self, chat):
        before = chat("u: hi", "c: f {\"a\": 1}", "t: r", "a: yo", tools=[{"name": "f"}])
        before = before._replace(variables='{"x": 1}', nulls=2, unused=("c",), repaired=True)
        assert redact(before, FINDER) == (before, {})

    def test_json_stays_json_and_the_rest_of_it_as_it_was(self):
        arguments = ('{"to" :"jo@mail.example","n":4111111111111111, "x":1.50,"u":"\\u00fc ü",'
                     '"t":"a\\"b jo@mail.example"}')
        talk = Conversation((Turn("assistant", "", (ToolCall("f", arguments),)),), Origin("s", "f", 1),
                            variables='{"who": "jo@mail.example"}')
        done, counts = redact(talk, FINDER)
        assert done.turns[0].tool_calls[0].arguments == (
            '{"to" :"[EMAIL_1]","n":"[CARD_1]", "x":1.50,"u":"\\u00fc ü","t":"a\\"b [EMAIL_1]"}')
        assert done.variables == '{"who": "[EMAIL_1]"}'
        assert counts == {"email": 3, "card": 1}

    def test_json_within_json_stays_json(self, chat):
        inner = json.dumps({"card": int(CARD), "mail": JO})
        done, _ = redact(chat(f"u: {inner}", f"c: f {json.dumps({'body': inner})}"), FINDER)
        assert json.loads(done.turns[0].content) == {"card": "[CARD_1]", "mail": "[EMAIL_1]"}
        body = json.loads(done.turns[1].tool_calls[0].arguments)["body"]
        assert json.loads(body) == {"card": "[CARD_1]", "mail": "[EMAIL_1]"}

    def test_numbers_go_on_after_those_that_are_there(self, chat):
        done, _ = redact(chat(f"u: [EMAIL_4] and {JO}", "a: yo"), FINDER)
        assert done.turns[0].content == "[EMAIL_4] and [EMAIL_5]"

    def test_what_comes_near_to_its_word_goes_too(self, chat):
        """Once the address is a placeholder, the word that names the number stands near enough."""
        text = f"BSN of {'very.' * 8}long@mail.example is 669600659"
        assert facts([chat(f"u: {text}", "a: yo")], FINDER)[0].kinds == ("email",)
        done, counts = redact(chat(f"u: {text}", "a: yo"), FINDER)
        assert done.turns[0].content == "BSN of [EMAIL_1] is [ID_1]"
        assert counts == {"email": 1, "id": 1}

    @given(st.lists(st.sampled_from([row.text for row in ROWS] + ["BSN ", "call ", "://", "@", "[EMAIL_1]", '"', "{"]),
                    min_size=1, max_size=6), st.sampled_from(["", " ", "\n", ","]), st.booleans())
    def test_a_second_pass_finds_nothing(self, pieces, sign, quoted):
        text = sign.join(pieces)
        turns = (Turn("user", "hi"), Turn("assistant", text if not quoted else json.dumps({"x": text}), (
            ToolCall("f", json.dumps({"y": text, "z": [int(CARD), text]})),)))
        once, counts = redact(Conversation(turns, Origin("s", "f", 1)), FINDER)
        assert facts([once], FINDER)[0].kinds == ()
        assert redact(once, FINDER) == (once, {})
        assert json.loads(once.turns[1].tool_calls[0].arguments)["z"][0].startswith("[CARD_")
        assert counts["card"] >= 1


class TestNames:
    SECTION = PiiSection(kinds=("name", "email"), allow=())

    def test_without_presidio_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setattr(names, "find_spec", lambda name: None)
        names._engine.cache_clear()
        with pytest.raises(ConfigError, match=r"pip install 'sft-platform\[names\]'"):
            found("Jo Doe", self.SECTION)

    @pytest.mark.parametrize("model", ["en_core_web_none", "no/such/folder"])
    def test_a_model_that_is_not_there_is_not_fetched(self, monkeypatch, model):
        monkeypatch.setattr(names, "find_spec", lambda name: object() if name == "presidio_analyzer" else None)
        names._engine.cache_clear()
        with pytest.raises(ConfigError, match="neither an installed package nor a folder"):
            found("Jo Doe", PiiSection(kinds=("name",), names_model=model))

    def test_what_the_model_says_is_trimmed_and_gives_way(self, monkeypatch):
        """The model takes an address, a variable and a command for names besides the name."""
        text = "Jo Doe's mail is jo.doe@mail.example, HF_TOKEN, git commit"
        said = [(0, 8), (17, 36), (38, 46), (48, 58)]
        engine: Any = SimpleNamespace(analyze=lambda text, **_: [SimpleNamespace(start=a, end=b) for a, b in said])
        monkeypatch.setattr(names, "_engine", lambda model: engine)
        assert found(text, self.SECTION) == [("name", "Jo Doe"), ("email", "jo.doe@mail.example")]


@pytest.mark.parametrize(("name", "most"), [("alpaca_subset/random_9k.json", 12), ("gsm8k/test.jsonl", 0)])
def test_real_texts_hold_little(real_data, name, most):
    """Each hit of these files was looked at: all are addresses and telephones."""
    text = real_data(name).read_text(encoding="utf-8")
    rows = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    talks = [Conversation((Turn("user", str(list(row.values())[0])), Turn("assistant", str(list(row.values())[-1]))),
                          Origin("s", name, at)) for at, row in enumerate(rows[::3])]
    counts = total(facts(talks, FINDER))
    assert set(counts) <= {"email", "phone"}
    assert sum(counts.values()) <= most
