"""Does an answer refuse? Rules about how English refuses, not a list of known answers; of other languages only what
declines in so many words.

voice.py      what an assistant says in its own voice: no thinking, quotations, code, letters
patterns.py   how English declines, condemns, contradicts, cares and hands over
languages.py  how other languages decline
substance.py  what an answer gives besides declining
rules.py      the verdict: compliance, refusal, partial refusal or nothing

How well the rules agree with people is measured on XSTest's human labels and on answers written for this purpose
(`tests/evals/test_refusal.py`); `judge/calibrate.py` corrects rates for what they get wrong.
"""
