"""What tests, benchmarks and tools need beside the product, and what uses none of them.

Processes and ports, real servers under our control, clients that say what happened, a cluster. An import contract
in pyproject.toml keeps it below its three users.
"""
