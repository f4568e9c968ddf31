"""Advice on the autoscaler: what the cluster would do under given values, and which values to choose."""
