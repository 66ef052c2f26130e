"""Bringing trilun up on one machine: the quickstart, and what tests and benchmarks share of it."""
