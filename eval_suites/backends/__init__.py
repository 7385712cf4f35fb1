"""What computes answers and likelihoods, and keeps them.

contract.py    the contract of all that computes answers
local.py       transformers in this process
proof.py       proof on the loaded model that it may be asked in these ways
alone.py       the slow way: one input at a time, by the model's own code
reader.py      parts of inputs and prompts, batch by batch
tree.py        beginnings that inputs share, each computed once
decode.py      decoding of rows that come and go
draw.py        which token comes next in an answer that is drawn
kv.py          keys and values, held by row and joined to batches
budget.py      tokens of a batch, halved when memory runs out
vllm.py        vLLM
remote.py      any OpenAI-compatible server
endpoint.py    the client of one
completion.py  what a server sends back, read
sampled.py     generators of synthetic data: a backend behind a template, or a server
parallel.py    requests side by side
cache.py       answers by content, kept on disk
generate.py    greedy answers through the chat template
converse.py    questions of several turns
likelihood.py  nats of texts and of answers
"""
