"""Several models × two objectives → which of them are proved better than which.

points.py       what is compared: a model's results under its training seeds, and which suites count
differences.py  two points → evidence of how they differ in alignment and tax; proof that one dominates the other
attainment.py   what the front as a whole reaches, and how surely
chances.py      how likely each point is to be on the front of the true values
front.py        all points → the front, with what is proved of each
choice.py       the point to propose, and what is proved of it against the base
early.py        a model still in training → whether it is proved hopeless
"""
