"""Jobs of an agent, broken at each boundary of a step and at each message of the controllers."""
