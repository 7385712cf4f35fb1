"""Chat templates: what becomes of a conversation, and which of its characters are trained. The map:

*.jinja       the built-in templates, by name
messages.py   turns as the messages that a Jinja template walks over
thoughts.py   <think> … </think> and its kin
template.py   Template: one Jinja, cut into trained and other spans by rendering prefixes
choose.py     the template that the configuration asks for, tried out on a tokenizer; tokens it adds
"""
