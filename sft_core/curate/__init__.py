"""Fewer conversations: what is there twice, and what the evaluation asks.

dedupe.py         exact and near duplicates; the first one stays
decontaminate.py  conversations that hold an evaluation item
words.py          the words of a text, for both
"""
