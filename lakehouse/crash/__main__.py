"""`python -m lakehouse.crash` plays the crash kit."""

import sys

from lakehouse.crash.kit import main

sys.exit(main())
