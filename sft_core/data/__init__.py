"""From raw rows to prepared examples, with a count of everything that was dropped on the way.

sources.py   files and hub ids → rows with their origin
jsonstream.py the elements of a JSON array, one at a time
readers.py   one reader per kind of file
splits.py    splits of a folder by the names of its files
columnar.py  Arrow tables → rows, nulls told apart as far as they can be
localhub.py  local snapshots of hub data sets, never mistaken for one another
formats.py   row → Conversation or Rejected
messages.py  one message of a chat → Turn
phrasings.py plain rows → rows of messages, in several phrasings
intake.py    a training source → conversations, one at a time
columns.py  the columns of a row under their standard names, synonyms included
shapes.py   chats as public data sets write them → messages
transcripts.py  chats in one text → messages
repair.py   turns that do not alternate, put right where asked for
trees.py    messages of trees → threads
shards.py    conversations on disk, in parts that fit into memory
workers.py   the same function over many shards, by several processes
curate/      what goes: duplicates and evaluation items
selection.py few rows out of many, beside a random draw of the same size
embed.py     sentence embeddings, for distances between rows
provenance/  where data comes from, what was done to it, what it may be used for
holdout.py   train / validation split
mix/         how often each example is used in each epoch
held_tasks.py rows of held-out tasks → items of a suite
tally.py     what becomes of a source, counted along
examples.py  rendered examples on disk
replay.py    raw text → examples
ledger.py    counts of everything read, dropped, cut and trained
rendering.py one shard of curated conversations → examples, split and counted
prepare.py   curated conversations → examples and the ledger
show.py      the mask viewer
"""
