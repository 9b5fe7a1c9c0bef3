"""``python -m overlay`` is the ``overlay`` command."""

import sys

from overlay.cli.main import main

sys.exit(main())
