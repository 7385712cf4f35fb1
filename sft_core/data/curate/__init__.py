"""Fewer conversations: what is there twice, and what the evaluation asks.

dedupe.py         exact and near duplicates; the first one stays
decontaminate.py  evaluation items in conversations and texts
words.py          the words of a text, for both
"""
