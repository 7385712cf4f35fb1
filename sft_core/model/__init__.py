"""Models as they are trained.

where.py      where a base lies, and whether it is whole
folder.py     weight files: in which dtype
load.py       base model and tokenizer
rotary.py     rotary positions that depend on the longest row of a batch
gguf.py       a GGUF file → a model folder
export.py     a model folder → one for others, in another dtype, whole or as its adapter
held.py       weights held as their folder has them, computing as in float32
noise.py      what the base drops or shakes at random by its own config
lora.py       adapters around the base
sending.py    tensors to the device without a wait
parts.py      a base of which every process loads its part
room.py       memory that a device has left
release.py    GPU memory given back when models have done their work
segments.py   attention over a line of examples without padding
attention.py  ways to keep the examples of a batch apart
proof.py      proof on the model itself that one does; which one is taken
reach.py      what text reaches of a model, and what is kept as it is
"""
