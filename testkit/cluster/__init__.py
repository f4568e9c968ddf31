"""A cluster, the chart on it, and what surrounds it: providers, load, monitoring."""
