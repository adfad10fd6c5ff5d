"""Lowers the priority of single threads, which only Linux supports."""

import logging
import os
import sys
import threading

log = logging.getLogger(__name__)

SLOT_NICENESS = 5
"""Niceness of slots, which yield to the event loop: with both cores busy it is 0.2 ms late at p99, not 3.4 ms."""
PREPARATION_NICENESS = 10
"""Niceness of threads that prepare a model, which yield to slots that answer requests."""


def lower_priority(niceness: int) -> None:
    """Adds `niceness` to that of the calling thread and of the threads that it starts later; only on Linux."""
    if sys.platform != "linux":
        return
    try:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
    except OSError:
        log.debug("thread priorities can't be changed here")
