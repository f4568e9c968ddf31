"""The operator: sets each cache class's TTL from what was measured of its answers."""
