"""The agent on a host: backup and restore jobs from attaching a LUN to the receipt."""
