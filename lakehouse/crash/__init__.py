"""The crash kit: the application is killed at its durable steps, and its tables must then be complete."""
