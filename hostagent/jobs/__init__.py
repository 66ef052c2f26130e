"""Durable jobs: tables of steps that are resumed after a crash and undone after a failure."""
