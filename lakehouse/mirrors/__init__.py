"""A valid hour goes to a target and is counted there."""
