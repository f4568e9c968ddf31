"""`python -m dub5` is the `dub5` command."""

import sys

from dub5.cli import main

sys.exit(main())
