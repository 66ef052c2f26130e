"""Looking at files: those of a backup's view on host 2, and those of now on host 1."""
