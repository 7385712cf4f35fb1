"""Base results × tuned results → Verdict.

outcome.py     what a verdict says of one suite
known.py       what the two are called, and what is known beside their results
gate.py        the declared policy → pass, fail, undecided
room.py        whether a base has anything to lose or to win
power.py       what so many items can find
refusing.py    refusals of what should be answered
cut.py         answers that ran into the limit of tokens
rough.py       clusters and weights of which an interval cannot be relied on
hidden.py      texts that lose much where none of those asked did
sequential.py  alpha spending over looks: when a suite may stop
verdict.py     the comparison
night.py       a night against the stored results, the base beside it
flips.py       items whose score changed, side by side
"""
