"""Open-ended answers judged by an LLM or by people: in pairs, base against tuned, or graded one by one.

asking.py     who is asked, and the scorer of answers that nobody has judged yet
prompts.py    what a judge is asked
replies.py    what a judge says, read
pairwise.py   in pairs, both orders
single.py     graded 1 to 10
lengths.py    the win rate at equal length
summary.py    win rate, ties, position bias
gold.py       the judge against people (gold.jsonl)
human.py      sheets for people, and their labels
"""
