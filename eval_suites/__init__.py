"""Evaluation: from a model folder to per-item results and a verdict.

suites.py     what can be run: one YAML per suite
chat_item.py  one item, as a row of JSON
items.py      the items of a suite, sampled, in every variant; the question texts of all suites
readers/      published benchmarks as their authors ship them
perturb.py    the same question in another form
robustness.py what another form or language costs
run.py        one model through several suites, and their protocols
protocol.py   what makes two scores of a suite comparable
subject.py    a model ready to be asked
asking.py     the items of one suite, opened for one model
sample.py     which items are asked
backend.py    the contract of all that computes answers
local.py      transformers in this process
kv.py         its KV cache, with room for the next tokens
vllm_engine.py  vLLM
remote.py     any OpenAI-compatible server
cache.py      answers by content, kept on disk
likelihood.py nats of texts and of answers
probe.py      a few items on a model that is being trained
lm_door.py    the only door to lm-eval
lm_door_model.py  lm-eval's HFLM with a backend of ours
lm_door_rows.py  lm-eval's samples as item results
generate.py   greedy answers through the chat template
lm_door_needs.py  what single tasks of lm-eval need besides it
lm_door_ids.py  token ids of a chat as lm-eval makes them
lm_door_data.py  which hub data sets lm-eval's tasks read
parity.py     the certificate: training, evaluation, template and server see the same ids
parity_server.py  asks a running server, one chat at a time
parity_probes.py  conversations that tell tokenizations apart
scorers/      pure functions: what was expected and the answer → score
answer_text.py  the part behind the reasoning, strict JSON
toolcalls.py  tool calls in the dialects of chat templates
refusal/      how English refuses
endpoint.py   client of any OpenAI-compatible server
converse.py   questions of several turns
judge/        open-ended answers judged by an LLM or by people
floor.py      the A/A floor: the base against itself
again.py      asks items again to measure it
results.py    per-item results, on disk and in memory
intervals.py  score intervals and exact tests
bootstrap.py  clustered, weighted bootstrap of a mean
stats.py      scores → evidence: rates, paired differences, pooled seeds
correct.py    rates corrected for the scorer's errors
classify.py   a sequence classifier as refusal scorer
calibrate.py  refusal scorers against people, and refusal rates corrected
power.py      what so many items can find
sequential.py  alpha spending over looks: when a suite may stop
pairing.py    the same items under two models
outcome.py    what a verdict says of one suite
gate.py       the declared policy → pass, fail, undecided
verdict.py    base results × tuned results → Verdict
flips.py      items whose score changed, side by side
report.py     the alignment-tax report as tables
plot.py       the verdict as a forest plot
page.py       both, and the changed items, as one HTML page (template in pages/)
"""
