"""Scores → evidence. What is said of a rate or a difference, and how sure that is.

intervals.py   score intervals and exact tests
bootstrap.py   clustered, weighted bootstrap of a mean
evidence.py    rates, paired differences, pooled seeds
correct.py     rates corrected for the scorer's errors
pairing.py     the same items under two models
floor.py       the A/A floor: the base against itself
robustness.py  what another form or language costs
"""
