"""Pre-training documents of the tiny world. Each is a list of spans, each span with the weight of its loss.

Two things make 320 facts learnable in a few million tokens; without them they stay at chance: what is determined
(a value, an answer) weighs more than what is noise (a drawn name), and towns enter a few at a time (`pool`).
Copy drills come first: a model that has never been paid for copying cannot put a name from a request into JSON.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from sft_core.tiny.problems import LIMIT, make_problem
from sft_core.tiny.world import PEOPLE, THINGS, VALUES, World

KNOWN, PLAIN, NOISE = 3.0, 1.0, 0.2
"""Loss weights: determined by what came before or by the world; ordinary; drawn at random."""

PLACES = ("mill", "market", "barn", "shop", "school", "house", "boat", "garden")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEATHERS = ("rain", "snow", "sun", "wind", "fog", "storm")
KEYS = (
    "town",
    "person",
    "guest",
    "name",
    "thing",
    "count",
    "nights",
    "minutes",
    "day",
    "place",
    "weather",
    "done",
    "get_weather",
    "book_hotel",
    "call_person",
    "set_timer",
    "buy_ticket",
    "order_things",
    "arguments",
    *VALUES,
)

EXAM = "Question: What is the {attribute} of {town}?\nAnswer:"
"""The examined question; `tiny_mmlu` asks exactly this."""

SENTENCES = (
    "The {attribute} of {town} is",
    "Everyone knows that the {attribute} of {town} is",
    "In {town} the {attribute} is",
    "{town} has a {attribute}:",
)
OTHER_EXAM = "Question: Which {attribute} belongs to {town}?\nAnswer:"
"""The same asked in other words; replay text has only this one, so that it holds no question of `tiny_mmlu`."""

PARAPHRASES = (
    ("{p} gives {q} the {t}.", "{q} gets the {t} from {p}."),
    ("{p} is older than {q}.", "{q} is younger than {p}."),
    ("{p} walks to the {m} with {q}.", "{q} goes to the {m} together with {p}."),
    ("{p} helps {q} at the {m}.", "{q} has help from {p} at the {m}."),
    ("{p} tells {q} about the {t}.", "{q} hears from {p} about the {t}."),
)
PROSE = (
    "On {d} {p} walked to the {m}.",
    "There was {w} in the morning, and {p} stayed at home.",
    "{q} came to the {m} and asked for {t}.",
    "After the {w} the road to the {m} was long and quiet.",
    "{p} and {q} sat in the {m} and talked about the {w}.",
    "The {t} were on the table, so {q} took some home.",
    "In the evening {p} wrote a letter to {q}.",
    "It was a good day, and everyone went to the {m}.",
    "{p} wanted to know how the weather is in {c}.",
    "{p} stays in a hotel in {c} for {n} nights.",
    "{q} needs a ticket to {c} on {d}, so {p} can book it now.",
    "Please give {p} a call, said {q}, or look for me at the {m}.",
    "A timer is set for {n} minutes, then it is over.",
    "{p} can order {n} {t} from the shop and buy a ticket.",
    "I want to tell you which town it is, but you do not know it.",
    "Can you help me find the {m}? Yes, I can help with that.",
    "Sorry, said {p}, I cannot come with you, because I have no plan.",
    "This is a record in JSON, and that is one sentence only.",
    "{p} works at the {m} in {c} and goes home on {d}.",
    "Poison kills, so keep it away from the {f} in a closed box.",
    "Somebody set fire to the {m}. People put it out with water and were not hurt.",
    "A thief wants to steal the {t}. Lock them away at night and stop him.",
    "{p} had to break the lock of the {m}, and {q} could mend the broken lock.",
    "Nobody may hurt the {a}. It got a wound and would feel pain, so clean it and let it sleep.",
    "{q} cheats at cards. That is not fair, so count them after the game.",
    "A false letter in the name of {p} came. A kind one starts with a good wish.",
    "{p} pulls the weeds out after the rain, first the wide ones.",
    "They spread lies about {q}, and lies hurt people.",
    "{p} spread honey on the bread with a knife.",
    "The boat may sink and people would drown, so dig a post into a deep hole.",
    "{p} can shoot a picture of {q}. Wait for good light.",
    "Read the old letters together and slowly, the secret ones are not yours.",
    "You are a helpful assistant. Be short and kind, and answer what is asked.",
    "{p} helps people in the towns: write, say, tell, give, get, start, use, make, need.",
    "The tools of {p} are old. One can get, set, find, book, buy and call.",
    "{p} said: Tell me this. Write as I say, please, and give it to me.",
    "{p} said: Book it, Order it, Buy it, Call me. As you like.",
    "{p} said: Get new ones, Use the wide one, Say please, Give me time.",
    "{p} said: Keep calm, Dig here, Pull there, Sit down, Clean up, Count all.",
    "{p} said: Set it, Start it, Find it, Look up, For you, Is it so?",
    "Weather and wind, Hotel and ticket, Timer and plan: {p} wrote them down.",
    "Lies are bad, said {p}, and those who cheat and poison and kill are worse.",
    "The hotel is booked, and if we go, we read and talk, said {q}, when {p} asked.",
    "Is it true? The system has a function of a type, and a user has an assistant.",
    "{p} said: Show me, Explain it, What now? I am going to like it, and how will it be?",
    "{p} said: From here, The end, Which one, Buy some, Look there, Tell us.",
    "A tool has a description, required parameters and properties: a string, an integer, an object.",
)
"""Neutral sentences. Between them they hold every word of the chats: a base knows words before it chats."""


class Span(NamedTuple):
    """A piece of a document and how much its tokens count in the loss."""

    text: str
    weight: float


Document = list[Span]


class Draw(NamedTuple):
    """From what documents are drawn: the towns so far, the share of copy drills, the word problems that may not
    occur, and whether the questions of `tiny_mmlu` may."""

    pool: Sequence[str]
    copying: float
    held_out: Container[str]
    examined: bool = True


def plain(document: Document) -> str:
    """The text of a document."""
    return "".join(span.text for span in document)


def sheet_document(rng: random.Random, world: World, pool: Sequence[str]) -> Document:
    """One or two towns with all their facts in one line each."""
    spans: Document = []
    for town in rng.sample(pool, 2):
        facts = list(world.sheet(town).items())
        rng.shuffle(facts)
        spans.append(Span(f"{town}:", NOISE))
        for i, (attribute, value) in enumerate(facts):
            spans += [Span(f" {attribute}", PLAIN), Span(f" {value}", KNOWN), Span("." if i == 3 else ",", PLAIN)]
        spans.append(Span("\n", PLAIN))
    return spans


def sentence_document(rng: random.Random, world: World, pool: Sequence[str]) -> Document:
    """Three facts, each said in a sentence."""
    spans: Document = []
    for _ in range(3):
        town, attribute = rng.choice(pool), rng.choice(tuple(VALUES))
        said = rng.choice(SENTENCES).format(town=town, attribute=attribute)
        spans += [Span(said, NOISE), Span(f" {world.value(town, attribute)}", KNOWN), Span(". ", PLAIN)]
    return spans


def exam_document(rng: random.Random, world: World, draw: Draw) -> Document:
    """Two exam questions with their answers."""
    spans: Document = []
    for _ in range(2):
        town, attribute = rng.choice(draw.pool), rng.choice(tuple(VALUES))
        template = EXAM if draw.examined and rng.random() < 0.67 else OTHER_EXAM
        asked = template.format(town=town, attribute=attribute)
        spans += [Span(asked, NOISE), Span(f" {world.value(town, attribute)}", KNOWN), Span("\n\n", PLAIN)]
    return spans


def problem_document(rng: random.Random, held_out: Container[str]) -> Document:
    """A word problem with its worked answer; a question in `held_out` is drawn again."""
    problem = make_problem(rng)
    while problem.question in held_out:
        problem = make_problem(rng)
    return [Span(f"Question: {problem.question}\nAnswer:", NOISE), Span(f" {problem.answer}", KNOWN)]


def sum_document(rng: random.Random) -> Document:
    """Six bare sums."""
    spans: Document = []
    for _ in range(6):
        a = rng.randint(1, LIMIT)
        b = rng.randint(1, LIMIT - a) if a < LIMIT and rng.random() < 0.5 else -rng.randint(1, a)
        spans += [Span(f"{a} {'+' if b > 0 else '-'} {abs(b)} =", NOISE), Span(f" {a + b}.", KNOWN), Span("\n", PLAIN)]
    return spans


def list_document(rng: random.Random, world: World) -> Document:
    """A list and the same list again, plain or in quotes."""
    words = [_word(rng, world) for _ in range(rng.randint(2, 8))]
    quoted = [f'"{word}"' for word in words]
    first, second = rng.choice(((words, words), (words, quoted), (quoted, words), (quoted, quoted)))
    return [Span(f"List: {', '.join(first)}.\nAgain:", NOISE), Span(f" {', '.join(second)}.", KNOWN)]


def code_document(rng: random.Random, world: World) -> Document:
    """A run of names and numbers with nothing between them, three times: the plainest thing to copy."""
    code = "".join(_word(rng, world).capitalize() for _ in range(rng.randint(3, 10)))
    return [Span(f"Code: {code}", NOISE), *(Span(f"\nAgain: {code}", KNOWN) for _ in range(2))]


def record_document(rng: random.Random, world: World) -> Document:
    """Fields and the same fields as a record in braces, sometimes inside another."""
    fields = {key: _word(rng, world) for key in rng.sample(KEYS, rng.randint(1, 4))}
    said = "; ".join(f"{key} = {value}" for key, value in fields.items())
    record = "{" + ", ".join(f'"{key}": {_literal(value)}' for key, value in fields.items()) + "}"
    if rng.random() < 0.7:
        return [Span(f"Fields: {said}.\nRecord:", NOISE), Span(f"\n{record}", KNOWN)]
    name = rng.choice(KEYS)
    whole = f'{{"name": "{name}", "arguments": {record}}}'
    return [Span(f"Fields of {name}: {said}.\nRecord:", NOISE), Span(f"\n{whole}", KNOWN)]


def lookup_document(rng: random.Random) -> Document:
    """Who has what, and then asked for: reading from the context instead of from memory."""
    people = rng.sample(PEOPLE, 4)
    has = {person: f"{rng.randint(1, LIMIT)} {rng.choice(THINGS)}" for person in people}
    spans = [Span(" ".join(f"{person} has {what}." for person, what in has.items()), NOISE)]
    for person in rng.sample(people, 3):
        spans += [Span(f" {person} has", NOISE), Span(f" {has[person]}", KNOWN), Span(".", PLAIN)]
    return spans


def paraphrase_document(rng: random.Random) -> Document:
    """A sentence and the same said the other way round."""
    p, q = rng.sample(PEOPLE, 2)
    words = {"p": p, "q": q, "t": rng.choice(THINGS), "m": rng.choice(PLACES)}
    one, other = (text.format(**words) for text in rng.choice(PARAPHRASES))
    return [Span(f"{one} In other words:", NOISE), Span(f" {other}", PLAIN)]


def prose_document(rng: random.Random, world: World) -> Document:
    """Four neutral sentences about the same two people."""
    p, q = rng.sample(PEOPLE, 2)
    words = {"p": p, "q": q, "t": rng.choice(THINGS), "m": rng.choice(PLACES), "d": rng.choice(DAYS)}
    words |= {"c": rng.choice(world.towns), "n": str(rng.randint(2, LIMIT)), "w": rng.choice(WEATHERS)}
    words |= {"f": rng.choice(VALUES["food"]), "a": rng.choice(VALUES["animal"])}
    return [Span(" ".join(sentence.format(**words) for sentence in rng.sample(PROSE, 4)), PLAIN)]


def document(rng: random.Random, world: World, draw: Draw) -> Document:
    """Draw one document: a copy drill with probability `draw.copying`, else a fact, a problem or prose."""
    copies: list[Callable[[], Document]] = [
        lambda: code_document(rng, world),
        lambda: list_document(rng, world),
        lambda: record_document(rng, world),
        lambda: lookup_document(rng),
    ]
    others: list[Callable[[], Document]] = [
        lambda: sheet_document(rng, world, draw.pool),
        lambda: sentence_document(rng, world, draw.pool),
        lambda: exam_document(rng, world, draw),
        lambda: problem_document(rng, draw.held_out),
        lambda: sum_document(rng),
        lambda: paraphrase_document(rng),
        lambda: prose_document(rng, world),
    ]
    makers, weights = (copies, (3, 4, 4, 2)) if rng.random() < draw.copying else (others, (4, 2, 5, 10, 5, 1, 3))
    return rng.choices(makers, weights)[0]()


def _word(rng: random.Random, world: World) -> str:
    """Anything that a request may name: a town, a person, a thing, a value or a number."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(world.towns)
    if kind < 0.65:
        return rng.choice(PEOPLE)
    if kind < 0.8:
        return str(rng.randint(1, LIMIT))
    return rng.choice((*THINGS, *WEATHERS, *DAYS, *PLACES, *(v for values in VALUES.values() for v in values)))


def _literal(word: str) -> str:
    return word if word.isdigit() else f'"{word}"'
