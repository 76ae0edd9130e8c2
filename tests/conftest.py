"""What all tests share. Keep it small: a fixture of one kind of test belongs beside it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hypothesis import settings

# The helpers that start processes are used from more than one folder of tests.
sys.path.insert(0, str(Path(__file__).parent / "integration"))

# Who starts this in the background of a shell has it ignore Ctrl-C, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time, those that hypothesis makes included.
settings.register_profile("fnship", deadline=None)
settings.load_profile("fnship")
