"""`python -m lakehouse.crash` plays the crash kit."""

import sys

from lakehouse.errors import ended_without_extras

with ended_without_extras():
    from lakehouse.crash.kit import main

sys.exit(main())
