"""Real initiators against the embedded target."""
