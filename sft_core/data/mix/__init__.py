"""How often each prepared example is used in each epoch (`data.mixture`); counts are whole, exact and repeatable.

labels.py  language, task and kind of every example, beside the examples
shares.py  what is there and what is asked for → share of every group of examples
draw.py    how much of a group → which of its examples, epoch by epoch
plan.py    all of it: examples → the mixture of each epoch, and the table of wanted and reached
"""
