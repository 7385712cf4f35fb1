"""Models as they are trained.

load.py       base model and tokenizer
lora.py       adapters around the base
segments.py   attention over a line of examples without padding
attention.py  ways to keep packed examples apart; proof on the model that one does
"""
