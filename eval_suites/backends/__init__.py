"""What computes answers and likelihoods, and keeps them.

contract.py    the contract of all that computes answers
local.py       transformers in this process
kv.py          its KV cache, with room for the next tokens
vllm.py        vLLM
remote.py      any OpenAI-compatible server
endpoint.py    the client of one
parallel.py    requests side by side
cache.py       answers by content, kept on disk
generate.py    greedy answers through the chat template
converse.py    questions of several turns
likelihood.py  nats of texts and of answers
"""
