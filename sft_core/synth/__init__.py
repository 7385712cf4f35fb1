"""Synthetic data: new tasks by Self-Instruct, and answers that pass verification. Who generates is handed in.

contract.py       what a generator is asked, and what it says
asking.py         all samples that are wanted, or an error where too many fail
rouge.py          how much texts are alike, against a whole pool
seeds.py          tasks that people wrote
prompts.py        what Self-Instruct asks
parsing.py        what generators say to that, read
filters.py        heuristics for instructions and instances
curve.py          how a pool grows, and when that stops paying
self_instruct.py  the rounds
pass_at.py        the chance that one of k answers is right
choose.py         which answers are kept, and which at random
rows.py           what is kept, as rows of a source with their provenance
"""
