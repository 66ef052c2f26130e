"""Real processes and real file systems, killed and cut off at any moment."""
