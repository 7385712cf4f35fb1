"""Pure functions: what was expected and the answer → Score. One scorer per kind of item.

`score` is what a suite counts, 0 or 1: all that was asked for, form and content. The metrics beside it read the same
answer more mildly or more strictly, and keep that order for every answer (`base.MILDER`, `base.STRICTER`); `refused`
and `called` say what an answer does. An empty answer is right nowhere: neither does it refuse nor does it help.

base.py      what every scorer takes and gives
answer_text.py  the part behind the reasoning, strict JSON
jsons.py     JSON and its schemas
tools.py     tool calls
toolcalls.py  their dialects in chat templates
callbodies.py  one call out of JSON or Python
shape.py     length and shape of plain text
markdown.py  tables, headings, citation markers
short.py     short answers and letters
requests.py  refused when they should be, and only then
custom.py    a function of the suite's own
followed.py  all modules that such a function hangs on
registry.py  which kinds there are, and the scorer of a suite
"""
