"""Texts put right, and fewer conversations: what is there twice, and what the evaluation asks.

words.py          the words of a text
sketch.py         what duplicates are found by, of a whole shard at once
normalise.py      texts put right; what changed can be read
characters.py     characters that nobody sees, and ends of lines
markup.py         what HTML leaves behind
code.py           whether a text holds code
language.py       which language is asked and answered in
quality.py        what is wrong with answers: facts, flaws, a score
repetition.py     what is said twice
boilerplate.py    stock refusals and placeholders
ending.py         answers that stop before their end
pii/              personal data and secrets: found, counted, taken out
rewrite.py        every text of a conversation through a function; JSON stays JSON
items.py          the items of evaluation suites
decontaminate.py  evaluation items word for word in texts
features.py       what a changed item still has in common with itself
reworded.py       evaluation items that were changed
contamination.py  which items rows hold, and what follows from it
changes.py        ways to change an item
recall.py         how many changed items are found, and how often something is found that is not there
measure.py        families of facts, shard by shard
scores.py         what a model and a judge think of rows: which go, and how scores spread
likelihood.py     how likely a model finds answers, behind their prompts and alone
fits.py           which rows can be rendered and are short enough
duplicates.py     exact and near duplicates among all rows
kept.py           where the steps of a curation are kept
read.py           a source as shards, and the same put right
way.py            the rows on their way: which are still there, why the others went
decide.py         facts → which rows stay
curated.py        the folder of those that stay, what goes, and the way of the rows in numbers
look.py           what was found, row by row, for a person
chain.py          sources → curated conversations, each step kept by what it hangs on
"""
