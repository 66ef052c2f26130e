"""Mounting, unmounting and freezing file systems on attached LUNs."""
