"""Pure: samples in, a TTL out. No I/O, no clock and no randomness of its own.

`reuse` knows what each TTL would have saved, `drift` how fast answers go stale; `decision` folds one class's samples
into both, weighs them, and is what everything else calls.
"""
