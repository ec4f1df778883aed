"""Questions about hours, and care for them: status, explain, verify, audit, erase and more."""
