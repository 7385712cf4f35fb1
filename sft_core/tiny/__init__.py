"""The tiny world: a generated closed world, a model that knows it by heart, chats to tune it and items to test it.

In the order the data walks:

* `paths`     where the committed checkpoint lies
* `world`     towns, people, facts: the frozen `World` made from one seed
* `problems`  arithmetic word problems up to 20, with worked answers
* `text`      pre-training documents with loss weights: facts, exams, problems, copy drills, prose
* `phrases`   how a person may ask: training phrasings and held-out phrasings, side by side
* `refusals`  disallowed requests, their benign near-misses, and the right replies
* `chats`     neutral chats over the touched fifth of the world
* `faults`    rows that are wrong on purpose, so that a ledger has something to say
* `data`      writes SFT and replay files in every source shape
* `items`     evaluation items: tiny_mmlu, tiny_gsm8k, tiny_format, tiny_refusal
* `tokens`    the byte-level BPE tokenizer
* `pretrain`  model, batches and the training loop
* `probe`     a quick score of what a checkpoint knows
* `build`     text to checkpoint, bit for bit, with a recipe card
"""
