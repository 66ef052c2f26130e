"""Copying named files from a mounted view to a mounted volume, beneath both roots only."""
