"""Published benchmarks, as their authors ship them, read into items.

bfcl.py  Berkeley Function-Calling Leaderboard
safety.py  XSTest, AdvBench, HarmBench, StrongREJECT, SimpleSafetyTests
text.py  raw text in sections, answers with their questions
open_ended.py  MT-Bench
all.py   which readers there are
"""
