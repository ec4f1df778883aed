"""A sealed hour gets a verdict."""
