"""All applications of an environment: what is wanted, what runs, and how the one becomes the other."""
