"""Values become HTML and SVG. Pure."""
