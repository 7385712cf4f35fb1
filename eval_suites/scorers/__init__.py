"""Pure functions: what was expected and the answer → Score. One scorer per kind of item.

`score` is what a suite counts, 0 or 1. The metrics beside it say how much of it was form and how much content:
`form` (the shape asked for), `value` (the right content in it), `partial` (the share of it that is right), `refused`
for requests. An empty answer is right nowhere: neither does it refuse nor does it help.

base.py      what every scorer takes and gives
answer_text.py  the part behind the reasoning, strict JSON
jsons.py     JSON and its schemas
tools.py     tool calls
toolcalls.py  their dialects in chat templates
shape.py     length and shape of plain text
markdown.py  tables, headings, citation markers
short.py     short answers and letters
requests.py  refused when they should be, and only then
custom.py    a function of the suite's own
registry.py  which kinds there are, and the scorer of a suite
"""
