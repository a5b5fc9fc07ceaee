"""``python -m training`` is ``vlm-agent``."""

import sys

from .cli import main

sys.exit(main())
