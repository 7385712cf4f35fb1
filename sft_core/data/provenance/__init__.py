"""Where data comes from, what was done to it, and what it may be used for.

terms.py     what a licence says → what it forbids and asks for; `licences.yaml` is the table
manifest.py  source, licence, maker, files and steps of every source, with counts and hashes
handed.py    what becomes of curated rows until they are trained on
card.py      the manifest as a page for people
"""
