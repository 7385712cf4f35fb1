"""Texts put right, and fewer conversations: what is there twice, and what the evaluation asks.

normalise.py      texts put right; what changed can be read
characters.py     characters that nobody sees, and ends of lines
markup.py         what HTML leaves behind
language.py       which language is asked and answered in
rewrite.py        every text of a conversation through a function; JSON stays JSON
dedupe.py         exact and near duplicates; the first one stays
decontaminate.py  evaluation items in conversations and texts
words.py          the words of a text, for both
"""
