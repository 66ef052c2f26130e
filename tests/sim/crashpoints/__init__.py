"""Crash points: short stories in which the power is lost at every write and every flush."""
