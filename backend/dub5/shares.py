"""How much of a common pool one of its users may hold, so that the others find a slot at any time.

A model that hangs gives nothing back for minutes, and nobody can distinguish it from one that thinks: slots that all
its callers hold are lost to its neighbours until a timeout passes. So some are left free before that: each model may
hold SHARE times what is free. Of 200 slots one model gets 160; a second such one 32 of the other 40; what is left
always has room for one more. This is A. K. Choudhury and E. L. Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", 1998. Pure; docs/adr/0025-a-fifth-for-the-others.md says why.
"""

from __future__ import annotations

SHARE = 4


def may_take_one(held: int, free: int) -> bool:
    """Whether a user that holds `held` slots may have one of the `free` ones.

    One that holds fewer than SHARE may have any.
    """
    return held < SHARE * free
