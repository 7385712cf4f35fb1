"""The closed world: towns with one fact in each of four subjects, people, things. Everything follows from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

VALUES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "blue", "green", "gold", "white", "black", "brown", "grey"),
    "food": ("bread", "soup", "rice", "fish", "honey", "cheese", "plums", "beans"),
    "animal": ("owl", "fox", "bear", "goat", "duck", "frog", "horse", "wolf"),
    "landmark": ("lake", "hill", "bridge", "tower", "harbour", "forest", "valley", "island"),
}
"""Attribute -> its eight possible values; disjoint, so that a value names its attribute."""

SUBJECTS: dict[str, str] = {"art": "colour", "cooking": "food", "biology": "animal", "geography": "landmark"}
"""Subject (as in a school) -> the attribute it examines."""

PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jana",
          "Kai", "Lena", "Milo", "Nora", "Otto", "Pia", "Rex", "Sara", "Tom", "Uma")  # fmt: skip
THINGS = ("apples", "books", "coins", "eggs", "cards", "stones", "shells", "pens", "cups", "nuts")

NOT_NAMES = (
    "Dope",
    "Juke",
    "Made",
    "Mate",
    "Muni",
    "None",
    "Note",
    "Pose",
    "Poke",
    "Take",
    "Time",
    "Name",
    "Zero",
    *PEOPLE,
)
"""Four letters that a person reads as something else."""

N_TOWNS = 80
N_TOUCHED = 16


class Fact(NamedTuple):
    """One thing to know: the `attribute` of `town` is `value`."""

    town: str
    attribute: str
    value: str


@dataclass(frozen=True)
class World:
    """All there is to know. `touched` is the first fifth of `towns`: the only ones that chats talk about."""

    seed: int
    towns: tuple[str, ...]
    facts: tuple[Fact, ...]
    touched: tuple[str, ...]

    def value(self, town: str, attribute: str) -> str:
        """The value of `attribute` of `town`; KeyError for a town or attribute that is not of this world."""
        return self.sheet(town)[attribute]

    def sheet(self, town: str) -> dict[str, str]:
        """Attribute -> value of one town; KeyError for a town that is not of this world."""
        try:
            start = self.towns.index(town) * len(VALUES)
        except ValueError:
            raise KeyError(f"{town!r} is not one of the {len(self.towns)} towns of world {self.seed}") from None
        return {fact.attribute: fact.value for fact in self.facts[start : start + len(VALUES)]}


def stream(seed: int, purpose: str) -> random.Random:
    """A random stream of its own for each purpose, so that adding one never moves another."""
    return random.Random(f"tiny-world/{seed}/{purpose}")


def make_world(seed: int = 0) -> World:
    """The world of a seed: `N_TOWNS` towns of four letters, each value equally often."""
    rng = stream(seed, "world")
    pairs = [c + v for c in "bdfgjklmnprstvz" for v in "aeiou"]
    names: list[str] = []
    while len(names) < N_TOWNS:
        name = (rng.choice(pairs) + rng.choice(pairs)).capitalize()
        if name not in names and name not in NOT_NAMES and name[:2].lower() != name[2:]:
            names.append(name)
    columns = {attribute: _balanced(rng, values, N_TOWNS) for attribute, values in VALUES.items()}
    facts = tuple(Fact(town, attribute, columns[attribute][i]) for i, town in enumerate(names) for attribute in VALUES)
    return World(seed, tuple(names), facts, tuple(names[:N_TOUCHED]))


def _balanced(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """`count` values, each equally often, shuffled: so that no value is a good guess."""
    column = [values[i % len(values)] for i in range(count)]
    rng.shuffle(column)
    return column
