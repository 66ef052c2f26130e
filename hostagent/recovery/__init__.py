"""Databases on the first volume: prepared for a backup, restored whole, recovered and checked."""
