"""Flaws are found where they were planted and not where it only looks so; thresholds decide without measuring."""

from __future__ import annotations

import csv
import json
import time
from typing import get_args

import pytest

from sft_core.config.quality import Flaw, QualitySection
from sft_core.conversation import Conversation, Origin, ToolCall, Turn
from sft_core.data.curate import language, quality
from sft_core.data.curate.boilerplate import is_placeholder, is_refusal
from sft_core.data.curate.ending import is_truncated
from sft_core.data.curate.quality import Quality
from sft_core.data.curate.repetition import echoed, pieces, repeated_lines, repeated_words

DEFAULT = QualitySection()
PROSE = ("The kettle stands on the stove. Water boils at one hundred degrees. Steam rises and the lid begins to "
         "rattle. Somebody takes it off the flame. The tea is left to draw for four minutes. Then the cups are filled.")
ASKED = "How do people in this house prepare their tea in the afternoon?"


def measured(*turns: Turn) -> Quality:
    conversation = Conversation(turns, Origin("s", "f.jsonl", 1))
    return quality.facts([conversation], language.facts([conversation]))[0]


def flaws_of(answer: str, question: str = ASKED, section: QualitySection = DEFAULT) -> set[str]:
    found = measured(Turn("user", question), Turn("assistant", answer))
    return {flaw.flaw for flaw in quality.flaws(found, section)}


PLANTED: tuple[tuple[Flaw, str, str], ...] = (
    ("placeholder", ASKED, "<noinput>"),
    ("repetition", ASKED, "The tea is ready. " + "It is left to draw for four minutes. " * 12),
    ("repetition", ASKED, "Tea: " + "0" * 3000),
    ("repetition", "请问茶准备好了吗？", "茶准备好了。" * 12),
    ("refusal", ASKED, "As an AI language model, I don't have access to the kettle of this house, so I cannot say."),
    ("truncated", ASKED, f"{PROSE} On Sundays there is also cake from the baker who lives across the"),
    ("damage", ASKED, "The caf\ufffd serves tea that people don?t like."),
    ("damage", ASKED, "They donâ€™t drink it; itâ€™s too cold."),
    ("echo", ASKED, "How do people in this house prepare their tea in the afternoon? With water."),
    ("language", ASKED, "Das Wasser kocht auf dem Herd, und der Tee zieht danach vier Minuten in der Kanne."),
    ("language", "Wie bereitet man in diesem Haus am Nachmittag den Tee zu?", PROSE),
)


@pytest.mark.parametrize(("flaw", "question", "answer"), PLANTED)
def test_what_is_planted_is_found_alone(flaw, question, answer):
    assert flaws_of(answer, question) == {flaw}


@pytest.mark.parametrize(("question", "answer"), [
    (ASKED, PROSE), (ASKED, "positive"), (ASKED, "42"), (ASKED, "[]"),
    ("Say it in German.", "Der Tee zieht vier Minuten."),
    ("Translate: the tea has to draw for four minutes, and the cups are filled.",
     "Le thé doit infuser pendant quatre minutes, puis les tasses sont remplies."),
    ("Qual é a capital da França, e como se chama o seu rio?", "Paris, Seine"),
    ("Was gibt dieses Programm aus?", "```python\nprint('the tea has to draw for four minutes')\n```"),
    ("Write a poem about tea.", "Steam in the morning,\nthe cup warms my cold fingers\nand the day begins"),
    ("Write a song.", "\n".join(["Verse", *PROSE.split(". "), "Chorus", "Oh tea, my tea", "Oh tea, my tea"])),
    ("Write a tweet about tea.", f"{PROSE} Have a cup with your friends today! #tea #friends #kettle"),
    ("List ten words.", "- kettle\n- cup\n- water\n- steam\n- lid\n- stove\n- flame\n- tea\n- house\n- afternoon"),
    ("Give me an array.", '[\n  {"name": "kettle", "litres": 1.5},\n  {"name": "cup", "litres": 0.2}\n]'),
    ("Hello", "Hello! How can I help you?"),
    ("Apologise to a guest.", "I'm sorry to hear that. We will bring you another cup at once, and it is on the house."),
    ("May I smoke here?", "You cannot smoke inside the house, but there is a bench in the garden."),
    ("What does U+00E9 look like in IPA?", "It is no sign of IPA; [ˈtrauŋkaˌjœːkʏtl̥] is written in it."),
])
def test_what_only_looks_like_a_flaw_is_none(question, answer):
    assert flaws_of(answer, question) == set()


def test_length_is_a_flaw_by_request():
    assert flaws_of("42", section=QualitySection(least_words=2)) == {"length"}
    assert flaws_of(PROSE, section=QualitySection(most_words=20)) == {"length"}
    assert flaws_of("42") == flaws_of(PROSE) == set()


@pytest.mark.parametrize("answer", [
    "N/A", "n/a.", "<nooutput>", "<No Output>", "No output", "Output:", "Response", "[your answer here]", "...",
    "…", "-", "[Insert output poster here]", "<A visual logo design>", "TODO", "null", "\u200b",
    "<nooutput> - Visuals cannot be drawn.",
])
def test_placeholders(answer):
    assert is_placeholder(answer)


@pytest.mark.parametrize("answer", [
    "No", "None.", "Nothing.", "No syntax error.", "0", "[]", "{}", "[1, 2]", "[red, blue]", "<br>", "Not spam", "yes",
    "Response time", "The answer is 4.", "Negative", "!", "+", ":)",
])
def test_no_placeholders(answer):
    assert not is_placeholder(answer)


@pytest.mark.parametrize("answer", [
    "I'm sorry, but I can't assist with that.", "I cannot provide information on that request.",
    "I am sorry, but as an AI language model, I do not have access to current prices.",
    "I’m sorry, but I’m unable to help you with booking flights.",
    "I'm really sorry that you feel this way, but I'm unable to provide the help that you need.",
    "I cannot provide guidance on such activities.", "It is not appropriate or ethical to discuss ways of doing so.",
    "Unfortunately, I cannot fulfil this request.", "This cannot be completed by a GPT language model.",
    "Als KI-Sprachmodell kann ich dazu keine Auskunft geben.", "Es tut mir leid, dabei kann ich nicht helfen.",
    "En tant qu’IA, je ne peux pas répondre à cette question.", "Lo siento, pero no puedo ayudarte con eso.",
    "Как языковая модель, я не могу ответить на этот вопрос.", "作为一个人工智能语言模型，我无法回答这个问题。",
    "抱歉，我不能提供这些信息。", "申し訳ありませんが、その質問にはお答えできません。",
])
def test_stock_refusals(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize("answer", [
    "I'm sorry that you're not happy with your purchase.", "I cannot believe that this is happening.",
    "GPT-3 is a large language model that was trained on text.", "I can't repudiate my fears.",
    "It is not appropriate to wear white at her wedding.", "I cannot provide for my family, she said, and wept.",
    "Dear Ms Miller, unfortunately my car broke down this morning.", "Es tut mir leid, dass du krank bist.",
    "As an artificial intelligence company, we cannot be too careful.", PROSE,
])
def test_no_refusals(answer):
    assert not is_refusal(answer)


@pytest.mark.parametrize("answer", [
    "```python\nprint(1)", '{"name": "kettle", "parts": ["lid", "spou', '[{"name": "kettle"}, {"name": "cu',
    "1. Fill the kettle with water.\n2. Put it on the stove and light the flame.\n3. When the water boils, take it and",
    "The committee will meet again in the spring (unless the members who are abroad",
    PROSE + "\n\nOn Sundays there is also a cake that the neighbours bring over from their",
    PROSE + " On Sundays the neighbours bring a cake with apples and raisi",
    "水壶放在炉子上。水在一百度沸腾。蒸汽升起。盖子开始作响。茶泡四分钟。然后倒进杯子里。星期天邻居们还会带来一个苹果",
])
def test_cut_off(answer):
    assert is_truncated(answer)


@pytest.mark.parametrize("answer", [
    "水壶放在炉子上", "水壶放在炉子上。水在一百度沸腾。蒸汽升起。盖子开始作响。茶泡四分钟。然后倒进杯子里。",
    "", "```python\nprint(1)\n```", '{"a": 1}', "[Verse 1]\nSteam in the morning", "The tea draws for four minutes",
    PROSE + "\n\n- Kettle with a lid and a handle of wood\n- Stove that burns with a small and steady flame",
    PROSE + "\n\nชา พร้อม แล้ว น้ำ เดือด บน เตา เท ลง ใน ถ้วย และ ดื่ม", "Best regards,\nMaria",
    "SELECT name FROM cups WHERE colour = 'blue' AND litres > 0 ORDER BY name",
    "1. Fill the kettle with cold water from the tap\n2. Put it on the stove and light a small flame below it",
    "A dictionary: {kettle, cup", "ชาพร้อมแล้วน้ำเดือดบนเตาแล้วเทลงในถ้วย และ ดื่ม กับ เพื่อน ใน ตอน บ่าย ที่ บ้าน",
    PROSE + " See https://example.org/tea/and/more/of/it/in/the/garden/of/the/house/on/the/hill/by/the/sea/side",
])
def test_not_cut_off(answer):
    assert not is_truncated(answer)


def test_shares_of_repetition():
    once = [f"w{at}" for at in range(20)]
    assert repeated_words("", once) == 0.0
    assert repeated_words("", once + once) == 0.5
    assert repeated_words("", once + once[:5]) == pytest.approx(5 / 25)
    assert repeated_words("", once + once[:4] + ["x"] * 4) == 0.0
    assert repeated_words("", once[:9] * 2) == 0.0
    assert repeated_words("", ["x"] * 100) == pytest.approx(0.99)
    assert repeated_lines("one two three\n" * 4 + "four five six\n}\n}\n}") == pytest.approx(3 / 5)
    assert repeated_lines("one two three") == 0.0


def test_words_of_scripts_without_spaces():
    assert pieces("茶ok茶 Tee-Haus") == ["茶", "ok", "茶", "tee", "haus"]


def test_echo_counts_from_the_beginning():
    asked = pieces(ASKED)
    assert echoed(asked, asked) == 1.0
    assert echoed(asked, asked[:6] + ["x"]) == pytest.approx(6 / 12)
    assert echoed(asked, ["well", *asked]) == 0.0
    assert echoed(asked, asked + ["x"] * 30) == 0.0
    assert echoed(["hello"], ["hello"]) == 0.0


class TestConversations:
    def test_thoughts_calls_and_context_are_no_answers(self):
        found = measured(
            Turn("user", ASKED), Turn("assistant", "As an AI language model, I cannot say.", masked=True),
            Turn("user", "Look!"), Turn("assistant", "<think>\nI should look and</think>", (ToolCall("look", "{}"),)),
            Turn("tool", "a kettle"), Turn("assistant", "[THINK]It is (a[/THINK]\n\nThere is a kettle."))
        assert found._replace(other_language=0.0) == Quality(
            answers=1, prompt_words=13, answer_words=4, prompt_characters=len(ASKED) + 5, answer_characters=18,
            repeated_words=0.0, repeated_lines=0.0, echo=0.0, placeholders=0, refusals=0, truncated=0, damage=0,
            other_language=0.0)

    def test_thoughts_alone_are_no_answer(self):
        assert measured(Turn("user", ASKED), Turn("assistant", "<think>\nHm.\n</think>")).placeholders == 1

    def test_a_thought_may_have_been_opened_by_the_prompt(self):
        assert measured(Turn("user", ASKED), Turn("assistant", "I should (look\n</think>\nTea.")).answer_words == 1

    def test_every_answer_counts(self):
        found = measured(Turn("user", ASKED), Turn("assistant", "N/A"), Turn("user", ASKED),
                         Turn("assistant", "I'm sorry, but I can't help with that."))
        assert (found.answers, found.placeholders, found.refusals) == (2, 1, 1)

    def test_a_system_turn_may_ask_for_the_language(self):
        german = "Das Wasser kocht auf dem Herd, und der Tee zieht danach vier Minuten in der Kanne."
        turns = Turn("user", ASKED), Turn("assistant", german)
        assert measured(*turns).other_language > 0.8
        assert measured(Turn("system", "Answer in German."), *turns).other_language == 0.0

    @pytest.mark.parametrize(("answer", "held_against"), [
        ("Drip brew, espresso.", 0.0), ("ˈmæɹi hæd ə ˈlɪtl ˈlæm, its fleece was white as snow", 0.0),
        ("¿A dónde vas?", 0.9), ("Vamos a comer una pizza en la plaza del pueblo.", 0.9),
    ])
    def test_short_texts_and_phonetic_script_are_not_held_against_a_row(self, answer, held_against):
        conversation = Conversation((Turn("user", ASKED), Turn("assistant", answer)), Origin("s", "f.jsonl", 1))
        languages = language.Languages("en", 0.9, "es", 0.95)
        assert quality.facts([conversation], [languages])[0].other_language == held_against


class TestDecisions:
    def test_only_what_is_named_is_dropped(self):
        found = measured(Turn("user", ASKED), Turn("assistant", "N/A"))
        assert quality.fault(found, DEFAULT) is None
        assert quality.fault(found, QualitySection(drop=("refusal",))) is None
        dropped = quality.fault(found, QualitySection(drop=("refusal", "placeholder")))
        assert dropped == ("placeholder", "an answer only stands for one")

    def test_thresholds_change_without_measuring(self):
        found = measured(Turn("user", ASKED), Turn("assistant", PROSE))._replace(repeated_words=0.4, damage=2, echo=0.5)
        assert not {flaw.flaw for flaw in quality.flaws(found._replace(damage=0), DEFAULT)}
        strict = QualitySection(repeated_words=0.4, echo=0.5, damage=2)
        assert {flaw.flaw for flaw in quality.flaws(found, strict)} == {"repetition", "damage", "echo"}

    def test_every_flaw_can_be_dropped_and_says_what_it_is(self):
        found = measured(Turn("user", ASKED), Turn("assistant", PROSE))._replace(
            repeated_words=1.0, echo=1.0, placeholders=1, refusals=1, truncated=1, damage=3, other_language=1.0)
        every = quality.flaws(found, QualitySection(least_words=1000))
        assert {flaw.flaw for flaw in every} == set(get_args(Flaw))
        assert all(flaw.detail and "\n" not in flaw.detail for flaw in every)

    def test_facts_are_plain(self):
        found = measured(Turn("user", ASKED), Turn("assistant", PROSE))
        assert {type(value) for value in found} == {int, float}

    def test_the_score_ranks(self):
        full = measured(Turn("user", ASKED), Turn("assistant", PROSE))
        fuller = full._replace(answer_words=400)
        scores = [quality.score(each, DEFAULT) for each in (
            fuller, full, full._replace(repeated_words=0.3), full._replace(refusals=1), full._replace(answer_words=1),
            full._replace(answer_words=0))]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == len(scores)
        assert scores[0] == 1.0
        assert scores[-1] == 0.0
        assert quality.score(fuller._replace(answer_words=4000), DEFAULT) == 1.0


class TestRealRows:
    def test_flaws_are_rare(self, real_data):
        """By hand: of 18 placeholders 18 are right, of 2 refusals 2, of 2 echoes 1; the one cut off is doubtful."""
        rows = json.loads(real_data("alpaca_subset/random_9k.json").read_text(encoding="utf-8"))[:4000]
        found: dict[str, int] = {}
        for row in rows:
            question = f"{row['instruction']}\n\n{row['input']}".strip()
            for flaw in flaws_of(row["output"], question) if row["output"] else ():
                found[flaw] = found.get(flaw, 0) + 1
        assert 5 <= found.pop("placeholder") <= 10
        assert sum(found.values()) <= 6

    def test_refusals_that_people_have_labelled(self, real_data):
        found: dict[tuple[bool, bool], int] = {}
        for model in ("gpt4", "llama2new", "mistralinstruct"):
            path = real_data(f"xstest/model_completions/xstest_v2_completions_{model}.csv")
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    kind = row["final_label"] != "1_full_compliance", is_refusal(row["completion"])
                    found[kind] = found.get(kind, 0) + 1
        assert found[True, True] / (found[True, True] + found[False, True]) > 0.94
        assert found[True, True] / (found[True, True] + found[True, False]) > 0.7

    def test_long_answers_cut_at_random_are_found(self, real_data):
        rows = json.loads(real_data("llamafactory_demo/alpaca_en_demo.json").read_text(encoding="utf-8"))
        whole = [row["output"] for row in rows if len(row["output"].split()) >= 150 and row["output"].endswith(".")]
        cut = [text[: len(text) // 2 + 37 * at % (len(text) // 2)] for at, text in enumerate(whole)]
        assert len(whole) > 200
        assert sum(map(is_truncated, cut)) / len(cut) > 0.6
        assert sum(map(is_truncated, whole)) == 0


def test_a_huge_row_takes_no_time_by_the_square():
    huge = "(" * 20_000 + "a b c. " * 40_000 + "[" * 20_000 + " ?t" * 20_000 + "\n" * 20_000 + "é\ufffd" * 20_000
    began = time.perf_counter()
    assert measured(Turn("user", huge), Turn("assistant", huge)).damage >= 20_000
    assert time.perf_counter() - began < 15
