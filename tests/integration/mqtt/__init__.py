"""Nodes and clients around a real broker."""
