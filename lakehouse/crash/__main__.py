"""`python -m lakehouse.crash` plays the crash kit."""

from lakehouse.errors import ended_without_extras

with ended_without_extras():
    from lakehouse.crash.kit import main

main()
