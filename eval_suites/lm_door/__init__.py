"""The only door to lm-eval. Its tasks, prompts and filters run unmodified on a model of ours.

door.py   tasks opened: questions, items asked, protocol
model.py  lm-eval's HFLM with a backend of ours
rows.py   lm-eval's samples as item results
needs.py  what single tasks of lm-eval need besides it
lookup.py which hub data sets any task of lm-eval reads
data.py   which hub data sets lm-eval's tasks read, and what a suite reads from outside
own.py    what tasks of one's own read outside their folder
ids.py    token ids of a chat as lm-eval makes them
"""
