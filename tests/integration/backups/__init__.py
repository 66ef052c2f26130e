"""Jobs of an agent with real controllers: backups and restores of whole volumes."""
