"""From prepared examples to a model folder. Kill it anywhere: it continues and ends the same.

pack.py        lengths → plan; examples → Batch
objective.py   sums of SFT, replay LM and KL over selected positions
policy.py      tuned model and its base; one forward makes the sums
stochastic.py  weights in bfloat16: moved in float32, rounded at random
optim.py       AdamW, Muon; the rate as a function of the step
course.py      which examples meet in which row of which step
inputs.py      what a training run starts from
reference.py   what the base says about the data, kept once
workbench.py   data, base, course and optimiser put together
shape.py       the shape of a model with its adapters, from its config
memory.py      memory and disk that a run will take, forecast
outlook.py     what a run will do and take, before its first step
advice.py      what hardly anybody wants of a run, and what to set instead
pulse.py       processes that watch each other
shortage.py    what is told when memory runs out
step.py        one optimiser step, on one process or several
snapshot.py    the state between two steps as plain tensors
system.py      how busy the machine is
events.py      events.jsonl, written ahead
checkpoint.py  atomic checkpoints
best.py        the weights that early stopping found best
saver.py       writing both while training goes on
rounding.py    dtype and rounding of the saved weights, and what they keep of the gain
artifact.py    the served model folder and its card
adapter.py     an adapter's folder and its merge
saving.py      trained weights → model folder, read back
interpolate.py a model on the way from base to trained
finish.py      the end of a run, for both engines: checks, saving, report
trainer.py     the loop: steps, events, checkpoints, resume
launch.py      the loop by several processes, started by torchrun
machines.py    further machines that take part in it
engine.py      what an engine must do, and which one a run takes
trl_bridge.py  a course as TRL takes it
trl_engine.py  the same loop by TRL, the second engine
"""
