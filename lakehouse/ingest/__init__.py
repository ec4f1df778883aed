"""Facts of segments become one bronze commit per batch, which also closes hours."""
