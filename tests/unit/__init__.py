"""Pure parts, each by itself."""
