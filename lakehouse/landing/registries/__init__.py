"""Registries of schemas, asked on executors for those that messages name; each is asked for a schema once."""
