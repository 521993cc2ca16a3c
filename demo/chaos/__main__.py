"""``python -m demo.chaos --minutes 30``."""

import sys

from demo.chaos.run import main

sys.exit(main())
