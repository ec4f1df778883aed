"""Where applications are started: each kind of place is a launcher."""
