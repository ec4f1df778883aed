"""An application's topics take their turns, and its heartbeat says what it runs."""
