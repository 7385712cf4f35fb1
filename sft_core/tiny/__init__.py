"""The tiny world: a generated closed world, a model that knows it by heart, chats to tune it and items to test it.

In the order the data walks:

paths.py     where the committed checkpoint lies
world.py     towns, people, facts: the frozen `World` made from one seed
problems.py  arithmetic word problems up to 20, with worked answers
text.py      pre-training documents with loss weights: facts, exams, problems, copy drills, prose
phrases.py   how a person may ask: training phrasings and held-out phrasings, side by side
refusals.py  disallowed requests, their benign near-misses, and the right replies
chats.py     neutral chats over the touched fifth of the world
faults.py    rows that are wrong on purpose, so that a ledger has something to say
data.py      writes SFT and replay files in every source shape
items.py     evaluation items: tiny_mmlu, tiny_gsm8k, tiny_format, tiny_refusal
tokens.py    the byte-level BPE tokenizer
pretrain.py  model, batches and the training loop
probe.py     a quick score of what a checkpoint knows
build.py     text to checkpoint, bit for bit, with a recipe card
"""
