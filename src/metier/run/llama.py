"""Import xllamacpp so that it works well beside other programs."""

import os
from typing import Any

_SPINS = "GOMP_SPINCOUNT"


def _imported() -> Any:
    """Import xllamacpp with threads that wait for each other for microseconds, not milliseconds, before they sleep.

    GNU OpenMP reads the setting when it is loaded, and by default spins through whole time slices. Gemma 3 270M on
    two cores, 48 tokens: alone 0.7 s either way; beside two busy processes 10 s by default, 3.7 s with this. (Not
    spinning at all, OMP_WAIT_POLICY=passive, takes 1.4 s alone.)
    """
    chosen = _SPINS in os.environ or "OMP_WAIT_POLICY" in os.environ
    if not chosen:
        os.environ[_SPINS] = "2000"
    try:
        import xllamacpp
    finally:
        if not chosen:
            del os.environ[_SPINS]
    return xllamacpp


xllamacpp = _imported()
