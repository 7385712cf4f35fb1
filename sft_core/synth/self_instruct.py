"""Self-Instruct (Wang et al. 2022): rounds of new instructions, their instances, and what of them comes into the pool.

A round hangs on the seeds, the configuration, its number and what was said before, and on nothing else. What is said is
kept by whoever generates, so a run that is begun anew hears it all again and goes on behind it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sft_core.config.synth import SelfInstructSection
from sft_core.stage import fingerprint
from sft_core.synth import prompts
from sft_core.synth.contract import Asked, Messages, Said
from sft_core.synth.curve import Round, Triples, why_it_ends
from sft_core.synth.filters import any_of, fault_of_instance, fault_of_instruction
from sft_core.synth.parsing import instances_in, instructions_in, says_yes
from sft_core.synth.rouge import Pool
from sft_core.synth.seeds import Instance, Task

IN = ""
UNANSWERED, NO_INSTANCE, ALIKE, CONTAMINATED, OTHER_OUTPUT, SURPLUS = (
    "unanswered", "no_instance", "alike", "contaminated", "another_output", "surplus")
"""Besides the faults of `filters.py`: why something does not come in."""
Ask = Callable[[Sequence[Asked], str], list[Said]]
"""Gives what was said to each; the text names the step for people."""
Holds = Callable[[Sequence[Sequence[str]]], list[str]]


class Grown(NamedTuple):
    """A new row, and what it came of. `parents` are the tasks that were shown."""

    instruction: str
    instance: Instance
    classification: bool
    round: int
    parents: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join((self.instruction, *self.instance))


class Left(NamedTuple):
    """What did not come in, and why."""

    why: str
    detail: str
    instruction: str
    instance: Instance | None = None


class _Proposal(NamedTuple):
    instruction: str
    parents: tuple[str, ...]


class SelfInstruct:
    """A pool that grows. `rows` and `left` hold what came of it so far.

    Args:
        seeds: tasks that people wrote.
        section: how.
        seed: decides which examples are shown.
        longest: tokens of an answer.
        ask: asks the generator.
        holds: which item of an evaluation each row of texts holds; '' where none.
    """

    def __init__(self, seeds: Sequence[Task], section: SelfInstructSection, seed: int, longest: int, ask: Ask,
                 holds: Holds) -> None:
        self._seeds, self._section, self._seed, self._longest = list(seeds), section, seed, longest
        self._ask, self._holds = ask, holds
        self._examples, self._forbidden = prompts.Examples(seeds, seed), any_of(section.forbidden)
        own = [Grown(one.instruction, each, bool(one.classification), 0, ()) for one in seeds for each in one.instances]
        self._instructions, self._whole = Pool([one.instruction for one in seeds]), Pool([one.text for one in own])
        self._triples = Triples(one.text for one in own)
        self._machine: list[Task] = []
        self.rows: list[Grown] = []
        self.left: list[Left] = []

    def rounds(self) -> Iterator[Round]:
        """One round after the other, until there are enough rows, or rounds, or they no longer pay; see `why_ended`."""
        done: list[Round] = []
        while not self.why_ended(done):
            done.append(self._round(len(done) + 1))
            yield done[-1]

    def why_ended(self, done: Sequence[Round]) -> str:
        """A sentence; '' while it goes on."""
        section = self._section
        if len(self.rows) >= section.target:
            return f"there are {section.target} rows (self_instruct.target)"
        if len(done) >= section.max_rounds:
            return f"there were {len(done)} rounds (self_instruct.max_rounds)"
        return why_it_ends(done, section.min_yield, section.min_novelty, section.patience)

    def _round(self, number: int) -> Round:
        shown = self._shown(number)
        said = self._ask([Asked(prompts.more_instructions(one), self._longest, number) for one in shown],
                         f"round {number}, instructions")
        proposed = [_Proposal(text, tuple(one.id for one in examples)) for examples, answer in
                    zip(shown, said, strict=True) for text in instructions_in(answer)]
        nearest = [one.similarity for one in self._instructions.nearest([one.instruction for one in proposed])]
        accepted, instructions = self._accepted(proposed, nearest)
        before = len(self.rows)
        instances = self._carried_out(accepted, number)
        new = self.rows[before:]
        return Round(number, len(shown), sum(one.text is None for one in said), instructions, instances,
                     sum(nearest) / len(nearest) if nearest else None, self._triples.novelty(one.text for one in new))

    def _shown(self, number: int) -> list[list[Task]]:
        """The examples of each request of a round; people's stand in for those of the machine that there are not."""
        draw, section = random.Random(f"{self._seed} round {number}"), self._section
        found = []
        for _ in range(section.prompts_per_round):
            machine = draw.sample(self._machine, min(section.from_machine, len(self._machine)))
            people = section.from_people + section.from_machine - len(machine)
            examples = machine + draw.sample(self._seeds, min(people, len(self._seeds)))
            draw.shuffle(examples)
            found.append(examples)
        return found

    def _accepted(self, proposed: Sequence[_Proposal], nearest: Sequence[float]
                  ) -> tuple[list[_Proposal], Counter[str]]:
        """The instructions that come in, and a tally of all. `nearest` is the similarity to the pool as it was."""
        before, found, tally = len(self._instructions), list[_Proposal](), Counter[str]()
        held = self._holds([[one.instruction] for one in proposed])
        for one, similarity, item in zip(proposed, nearest, held, strict=True):
            why, detail = self._fault(one.instruction, similarity, before)
            why, detail = (CONTAMINATED, item) if item and not why else (why, detail)
            tally[why] += 1
            if why:
                self.left.append(Left(why, detail, one.instruction))
            else:
                self._instructions.add(one.instruction)
                found.append(one)
        return found, tally

    def _fault(self, text: str, similarity: float, before: int) -> tuple[str, str]:
        section = self._section
        if fault := fault_of_instruction(text, section.least_words, section.most_words, self._forbidden):
            return fault, ""
        highest = max(similarity, self._instructions.nearest([text], since=before)[0].similarity)
        if highest >= section.max_similarity:
            return ALIKE, f"ROUGE-L {highest:.2f} to an instruction of the pool"
        return IN, ""

    def _carried_out(self, accepted: Sequence[_Proposal], number: int) -> Counter[str]:
        """Instances of the new instructions into `rows`; a tally of all."""
        labelled = self._kinds([one.instruction for one in accepted], number)
        asked = [self._instances_of(one.instruction, kind) for one, kind in zip(accepted, labelled, strict=True)]
        said = self._ask([Asked(one, self._longest) for one in asked], f"round {number}, instances") if asked else []
        tally: Counter[str] = Counter()
        read = [instances_in(answer, labels=kind) for answer, kind in zip(said, labelled, strict=True)]
        held = iter(self._holds([[one.input, one.output] for found in read for one in found]))
        for one, kind, answer, found in zip(accepted, labelled, said, read, strict=True):
            made = [Grown(one.instruction, each, kind, number, one.parents) for each in found]
            new = [each for each in made if self._comes_in(each, found, next(held), tally)]
            if new:
                self._machine.append(Task(fingerprint(one.instruction), one.instruction,
                                          tuple(each.instance for each in new), kind))
            if not found:
                why = UNANSWERED if answer.text is None else NO_INSTANCE
                tally[why] += 1
                self.left.append(Left(why, answer.why, one.instruction))
        return tally

    def _kinds(self, instructions: Sequence[str], number: int) -> list[bool]:
        """Which of them are classifications."""
        if not (instructions and self._examples.both):
            return [False] * len(instructions)
        asked = [Asked(prompts.is_classification(text, self._examples.both), self._longest) for text in instructions]
        return [says_yes(one) for one in self._ask(asked, f"round {number}, kinds")]

    def _instances_of(self, instruction: str, labelled: bool) -> Messages:
        return prompts.output_first(instruction, self._examples.labelled) if labelled else \
            prompts.input_first(instruction, self._examples.plain)

    def _comes_in(self, one: Grown, beside: Sequence[Instance], item: str, tally: Counter[str]) -> bool:
        """Take a row in, or leave it with its reason."""
        why, detail = (CONTAMINATED, item) if item else self._fault_of_row(one, beside)
        tally[why] += 1
        if why:
            self.left.append(Left(why, detail, one.instruction, one.instance))
            return False
        self._whole.add(one.text)
        self.rows.append(one)
        return True

    def _fault_of_row(self, one: Grown, beside: Sequence[Instance]) -> tuple[str, str]:
        if fault := fault_of_instance(one.instance):
            return fault, ""
        if one.instance.input and any(each.input == one.instance.input and each.output != one.instance.output
                                      for each in beside):
            return OTHER_OUTPUT, "its input stands beside another output, too"
        most = self._section.max_instance_similarity
        similarity = self._whole.nearest([one.text], least=most)[0].similarity
        if similarity >= most:
            return ALIKE, f"ROUGE-L {similarity:.2f} to a row of the pool"
        of_task = sum(each.instruction == one.instruction for each in self.rows[-self._section.instances:])
        if of_task == self._section.instances or len(self.rows) == self._section.target:
            return SURPLUS, ""
        return IN, ""
