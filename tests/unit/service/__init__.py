"""The service layer without a broker."""
