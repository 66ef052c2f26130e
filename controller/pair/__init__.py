"""Pairs: the state table, generations, resync planning, and the owner task that runs one."""
