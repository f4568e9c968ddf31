"""`python -m dub5` is the `dub5` command.

What serves ends with 0 on SIGTERM from here on, also while the rest of the program is loaded, which takes up to a
second. Without a handler the kernel ignores the signal where the process is the first of its container, and the pod
waits for the whole of its grace period.
"""

import os
import signal
import sys

if sys.argv[1:2] in (["serve"], ["operator"]):
    # Not an exception: it would arise in the middle of an import, and there is nothing to leave yet.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

from dub5.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
