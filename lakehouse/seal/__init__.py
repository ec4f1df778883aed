"""A closed hour becomes one row per event, in one commit."""
