"""Turning a LUN into a block device, or a file, on this host."""
