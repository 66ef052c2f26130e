"""The simulator: real controllers on a virtual clock, with disks and a network that fail."""
