"""Chat templates: what becomes of a conversation, and which of its characters are trained.

*.jinja       the built-in templates, by name
bounds.py     what a template may take: time, memory, length
messages.py   turns as the messages that a Jinja template walks over
thoughts.py   <think> … </think> and its kin
given.py      variables and the date that a template is given, written into it
template.py   Template: one Jinja, cut into trained and other spans by rendering prefixes
choose.py     the template that the configuration asks for, tried out on a tokenizer; tokens it adds
variants.py   the template as single rows set its variables
encode.py     pieces of text → token ids, as they go on behind one another
render.py     Conversation → Example: template, mask and shift in one walk
truncate.py   examples within max_tokens: oldest turns left out, or cut at user turns
"""
