"""The core: from raw rows to a trained model folder. Pure: no orchestration, no tracking, no environment variables.

In the order the data walks; a room imports only from those above it (tests/house):

masking.py       passwords and tokens in URLs, hidden
visible.py       texts of others, so that no terminal obeys them
errors.py        what a user may meet
names.py         what may be called how, and texts as names of files
conversation.py  the values: Row, Turn, Conversation, Rejected
stopping.py      SIGTERM and Ctrl-C: a flag that every loop looks at
locks.py         file locks that go with their process
stage.py         stage folders, fingerprints, atomic files
versions.py      the code that a stage hangs on
progress.py      bars on a terminal, lines elsewhere
config/          the frozen sections of one experiment, and the reader of their file
tiny/            the embedded world: generator, base checkpoint, items
templates/       chat templates, and Conversation → Example: text, mask and shift in one walk
data/            raw rows → prepared examples with their ledger
synth/           new tasks and verified answers, from whoever generates
model/           base models, adapters, and attention that keeps packed examples apart
train/           examples → checkpoint → model folder
doctor/          pre-flight on the user's own model and data
"""
