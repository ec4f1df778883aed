"""`python -m lakehouse.cli` is the command `lakehouse`."""

from lakehouse.cli.app import main

main()
