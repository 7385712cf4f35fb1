"""Synthesis: who generates, the stage of either way, and what is shown of it.

generator.py      the generator that a configuration names
prompts.py        what rejection sampling asks, and what it leaves out
licence.py        under which licences what is made is, as far as they are known
made.py           the stage: found, or made now; the folder in which it is kept under its name
reject.py         rejection sampling
self_instruct.py  Self-Instruct
record.py         what trackers and people are shown
"""
