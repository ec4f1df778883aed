"""`make fleet`: 300 topics in three applications on this machine, deployed, broken and counted."""
