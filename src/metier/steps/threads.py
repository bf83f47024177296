"""How torch's threads wait and where its tensors lie: set before it loads."""

import os


def set_up() -> None:
    """Set what the environment leaves open."""
    # Threads that wait for microseconds before they sleep: by default they spin through whole time slices, which
    # makes a training on a busy machine several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Huge pages for large tensors: without, a new gradient of many experts waits for the system's 4 KiB pages.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
