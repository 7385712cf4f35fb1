"""Answers judged by an LLM, a classifier or people: refusals, and open-ended answers in pairs or graded one by one.

talk.py       who is asked, and the scorer of answers that nobody has judged yet
prompts.py    what a judge is asked
replies.py    what a judge says, read
pairwise.py   in pairs, both orders
single.py     graded 1 to 10
lengths.py    the win rate adjusted for length
summary.py    win rate, ties, position bias
gold.py       the judge against people (gold.jsonl)
human.py      sheets for people, and their labels
refusal.py    refusals by rules, judge or classifier, and answers scored again by one of them
refusal_judge.py  the question to a judge about a refusal, and its reply read
classifier.py a sequence classifier as refusal scorer
calibrate.py  refusal scorers against people, and refusal rates corrected
"""
