"""What every daemon needs around it: config, logging, the MQTT bus, service notification."""
