"""Several models × two objectives → what is proved of them.

points.py       what is compared: a model's results under its training seeds, and which suites count
differences.py  two points → evidence of how they differ in alignment and tax; proof that one dominates the other
"""
