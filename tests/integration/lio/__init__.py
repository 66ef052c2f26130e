"""The kernel's target where it can't be had, and its units."""
