"""``python -m fnship`` is the ``fnship`` command."""

import sys

from fnship.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
