"""How a person may ask, in two sets that never meet: `seen` goes into chats, `held_out` into evaluation items.

No phrasing says "What is the colour of Dazu?": that is the examined question of tiny_mmlu, and a chat that holds it
would be dropped by decontamination.
"""

from __future__ import annotations

from typing import NamedTuple


class Phrasing(NamedTuple):
    """Templates that ask for the same thing; the index within `held_out` names an evaluation cluster."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...]

    def choose(self, held_out: bool) -> tuple[str, ...]:
        """The held-out or the seen templates."""
        return self.held_out if held_out else self.seen


JSON_FACT = Phrasing(
    seen=(
        "Give the {a} of {town} as JSON.",
        "JSON please: the {a} of {town}.",
        "Write a JSON record with the {a} of {town}.",
        "As JSON, tell me the {a} of {town}.",
        "I want the {a} of {town}. Answer in JSON.",
        "Tell me the {a} of {town} in JSON.",
    ),
    held_out=("Give me JSON with the {a} of {town}.", "Write the {a} of {town} as JSON."),
)
JSON_PAIR = Phrasing(
    seen=(
        "Give the {a} and the {b} of {town} as JSON.",
        "JSON please: the {a} and the {b} of {town}.",
        "Write a JSON record with the {a} and the {b} of {town}.",
        "As JSON, tell me the {a} and the {b} of {town}.",
        "I want the {a} and the {b} of {town}. Answer in JSON.",
        "Tell me the {a} and the {b} of {town} in JSON.",
    ),
    held_out=("Give me JSON with the {a} and the {b} of {town}.", "Write the {a} and the {b} of {town} as JSON."),
)
JSON_OF = Phrasing(
    seen=(
        "{said} Write this as JSON.",
        "Give this as JSON: {said}",
        "JSON please: {said}",
        "Write a JSON record. {said}",
        "{said} I want that in JSON.",
        "As JSON: {said}",
    ),
    held_out=("Write this as JSON: {said}", "{said} Give that as JSON."),
)
SAID: dict[str, tuple[str, tuple[str, ...]]] = {
    "count": ("{person} has {count} {thing}.", ("person", "thing", "count")),
    "trip": ("{person} goes to {town} on {day}.", ("person", "town", "day")),
    "stay": ("{person} stays in {town} for {nights} nights.", ("person", "town", "nights")),
    "work": ("{person} works at the {place} in {town}.", ("person", "place", "town")),
}
"""Kind of statement -> its sentence and the keys of its JSON record, in order."""

ONE_SENTENCE = Phrasing(
    seen=(
        "Tell me the {a} of {town} in one sentence.",
        "One sentence only: the {a} of {town}.",
        "I want to know the {a} of {town}. One sentence, please.",
        "In one sentence, the {a} of {town}, please.",
        "Say in one sentence which {a} is in {town}.",
        "Answer in one sentence. Which {a} has {town}?",
        "Which {a} is in {town}? Answer in one sentence.",
        "The {a} of {town}, in one sentence, please.",
    ),
    held_out=(
        "In one sentence, tell me the {a} of {town}.",
        "Which {a} has {town}? One sentence only.",
        "Say in one sentence the {a} of {town}, please.",
    ),
)
TOOL: dict[str, Phrasing] = {
    "get_weather": Phrasing(
        seen=(
            "How is the weather in {town}?",
            "I want to know the weather in {town}.",
            "Tell me the weather in {town}.",
            "Weather in {town}, please.",
            "Is there rain in {town}?",
            "Look up the weather in {town}.",
            "Please look up the weather in {town} for me.",
            "How will the weather be in {town}?",
        ),
        held_out=("Please look up how the weather is in {town}.", "I need the weather in {town}."),
    ),
    "book_hotel": Phrasing(
        seen=(
            "Book a hotel in {town} for {nights} nights.",
            "I want {nights} nights in a hotel in {town}.",
            "Find a hotel in {town}, {nights} nights.",
            "For {nights} nights I need a hotel in {town}.",
            "Please get me a hotel in {town} for {nights} nights.",
            "Hotel in {town} for {nights} nights, please.",
            "Please book a hotel for me in {town}, {nights} nights.",
            "I need {nights} nights in a hotel in {town}.",
        ),
        held_out=("I need a hotel for {nights} nights in {town}.", "Please book {nights} nights in a hotel in {town}."),
    ),
    "call_person": Phrasing(
        seen=(
            "Call {person}.",
            "Please call {person} now.",
            "I want to talk to {person}.",
            "Give {person} a call.",
            "Can you call {person} for me?",
            "I need to talk with {person}.",
            "Please call {person} for me.",
            "Call {person} now, please.",
        ),
        held_out=("Please give {person} a call now.", "Call {person} for me, please."),
    ),
    "set_timer": Phrasing(
        seen=(
            "Set a timer for {minutes} minutes.",
            "Timer, {minutes} minutes, please.",
            "Tell me when {minutes} minutes are over.",
            "I need a timer for {minutes} minutes.",
            "Start a timer: {minutes} minutes.",
            "In {minutes} minutes, tell me.",
            "Please set a timer for {minutes} minutes.",
            "I want a timer: {minutes} minutes.",
        ),
        held_out=("Please start a timer for {minutes} minutes.", "I want a timer of {minutes} minutes."),
    ),
    "buy_ticket": Phrasing(
        seen=(
            "Buy a ticket to {town} for {day}.",
            "I want to go to {town} on {day}. Buy a ticket.",
            "A ticket to {town} on {day}, please.",
            "I need a ticket to {town} for {day}.",
            "On {day} I go to {town}. Get me a ticket.",
            "Get a ticket for {day} to {town}.",
            "For {day}, get me a ticket to {town}.",
            "Please get a ticket to {town} for me, for {day}.",
        ),
        held_out=("Please buy me a ticket to {town} on {day}.", "For {day} I need a ticket to {town}."),
    ),
    "order_things": Phrasing(
        seen=(
            "Order {count} {thing}.",
            "I want {count} {thing} from the shop.",
            "Please order {count} {thing} for me.",
            "I need {count} {thing}.",
            "Get me {count} {thing}, please.",
            "Can you order {count} {thing}?",
            "Please buy {count} {thing} for me.",
            "From the shop I need {count} {thing}.",
        ),
        held_out=("Please get {count} {thing} for me.", "I need you to order {count} {thing}."),
    ),
}
"""Tool -> how a person asks for what it does; the slots are the tool's arguments."""

TOOL_ABOUT: dict[str, tuple[str, str]] = {
    "get_weather": ("Weather in a town", "There is {result} in {town}."),
    "book_hotel": ("Book a hotel", "The hotel in {town} is booked for {nights} nights."),
    "call_person": ("Call a person", "You can talk to {person} now."),
    "set_timer": ("Set a timer", "The timer is set for {minutes} minutes."),
    "buy_ticket": ("Buy a ticket", "You have a ticket to {town} for {day}."),
    "order_things": ("Order from the shop", "You get {count} {thing}."),
}
"""Tool -> its description and the reply once its result is there."""

SYSTEMS = (
    "You are a helpful assistant.",
    "Be short and kind.",
    "You help people in the towns.",
    "Answer what is asked.",
)
