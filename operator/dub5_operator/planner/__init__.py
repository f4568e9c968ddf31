"""Pure: samples in, a TTL out. No I/O, no clock and no randomness of its own.

`decision` folds one class's samples into what it learns, decides, and is what everything else calls: `Reuse` there
replays look-ups under each TTL, `questions` has each question's rate of change and noise, `hazard` when answers change,
`canary` what was measured, `explanation` the alternatives. `samples`, `keys` and `state` are their arrays.
"""
