"""Tests of what is built, measured and shown."""
