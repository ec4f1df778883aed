"""A Pub/Sub broker on this machine, sample events, and the demo."""
