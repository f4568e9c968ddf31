"""Pure: samples in, a TTL out. No I/O, no clock and no randomness of its own.

`reuse` knows what each TTL would have saved, `drift` how fast answers go stale, `decision` weighs them;
`learning` keeps one class's share of the three and is what everybody else calls.
"""
