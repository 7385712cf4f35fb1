"""Published benchmarks, as their authors ship them, read into items.

bfcl.py  Berkeley Function-Calling Leaderboard
all.py   which readers there are
"""
