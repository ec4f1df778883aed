"""`make fleet`: 300 topics in two applications on this machine, deployed, broken and counted."""
