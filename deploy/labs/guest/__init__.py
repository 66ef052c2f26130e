"""What runs inside a lab host."""
