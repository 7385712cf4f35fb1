"""Pre-flight on the user's own model and data: what training relies on, tried out before it is relied on. The map:

finding.py   what one check has seen
chats.py     conversations against the chat template: masks, parity, stops
drill.py     model and data cut so small that every check takes seconds
steps.py     the model: packed = alone, accumulated = at once, merged = adapter, resumed = uninterrupted
examine.py   all checks in their order
"""
