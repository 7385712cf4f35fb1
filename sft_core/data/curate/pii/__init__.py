"""Personal data and secrets in conversations: found, counted, taken out.

span.py      what is found in a text, and which of two that overlap counts
contacts.py  e-mail addresses, IP addresses
phones.py    telephone numbers
numbers.py   payment cards, IBANs
ids.py       national numbers of persons
tokens.py    keys and tokens: patterns of detect-secrets and what they miss
keys.py      keys, tokens, and passwords in URLs
names.py     names of people: the door to Presidio
finder.py    all kinds in one text
texts.py     the texts of a conversation, and the values of JSON in them
redact.py    facts, decision, redaction
measure.py   precision and recall on a labelled set
"""
