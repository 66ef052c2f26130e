"""The storage subsystem: volumes, pairs, the link between controllers, and their control."""
