"""The peer protocol: one ordered stream between two controllers."""
