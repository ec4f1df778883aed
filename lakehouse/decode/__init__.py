"""A message becomes an event, or a row with the reason why it is rejected. Pure."""
