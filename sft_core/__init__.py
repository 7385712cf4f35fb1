"""The core: from raw rows to a trained model folder. Pure: no orchestration, no tracking, no environment variables.

In the order the data walks:

config/          the frozen sections of one experiment
configfile.py    YAML with line numbers, `--set`, all problems at once
stage.py         stage folders, fingerprints, atomic files
progress.py      bars on a terminal, lines elsewhere
errors.py        what a user may meet
conversation.py  the values: Row, Turn, Conversation, Rejected
localhub.py      local snapshots of hub data sets, never mistaken for one another
sources.py       files and hub ids → rows with their origin
readers.py       one reader per kind of file
columnar.py      Arrow tables → rows, nulls told apart as far as they can be
formats.py       row → Conversation or Rejected
messages.py      one message of a chat → Turn
curate/          duplicates and evaluation items out
mixture.py       train / validation split
templates/       chat templates as spans of text, trained or not
encode.py        pieces of text → token ids, as they go on behind one another
render.py        Conversation → Example: template, mask and shift in one walk
fit.py           examples within max_tokens: oldest turns left out, or cut at user turns
pack.py          lengths → plan; examples → Batch
intake.py        training sources → conversations, file by file
ledger.py        counts of everything read, dropped, cut and trained
prepare.py       all of the above in one stage
show.py          the mask viewer
models.py        base model and tokenizer
lora.py          adapters around the base
segments.py      attention over a line of examples without padding
attention.py     ways to keep packed examples apart; proof on the model that one does
objective.py     sums of SFT, replay LM and KL over selected positions
policy.py        tuned model and its base; one forward makes the sums
optim.py         AdamW; the rate as a function of the step
course.py        which examples meet in which row of which step
inputs.py        what a training run starts from
reference.py     what the base says about the data, kept once
workbench.py     data, base, course and optimiser put together
step.py          one optimiser step, on one process or several
snapshot.py      the state between two steps as plain tensors
events.py        events.jsonl, written ahead
stopping.py      SIGTERM and Ctrl-C
trainer.py       the loop: steps, events, checkpoints, resume
launch.py        the loop by several processes, started by torchrun
trl_bridge.py    a course as TRL takes it
trl_engine.py    the same loop by TRL, the second engine
checkpoint.py    atomic checkpoints
artifact.py      the served model folder, adapter merge, card
memory.py        memory and disk that a run will take, forecast
doctor/          pre-flight on the user's own model and data
tiny/            the embedded world: generator, base checkpoint, items
"""
