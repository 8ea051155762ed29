"""The two ways in which zeroloop compiles a function with Numba. Knows nothing of games.

Both run unmodified as plain Python under `NUMBA_DISABLE_JIT=1`. Unsigned integers wrap around
in compiled code, so the interpreter is told not to warn about it in that mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
"""True when Numba leaves every function as plain Python."""

if INTERPRETED:
    np.seterr(all="ignore")


# Without Numba's memory runtime nothing can be allocated and no array is reference-counted: kernels
# run 3.5 times faster (docs/adr/0004) and "a rule allocates nothing" is proved by the compiler.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def kernel(function: F) -> F:
    """Compile an entry point: cached on disk, releases the GIL, no division checks, no allocation.

    A kernel that takes a game may call helpers of any file: the game's type carries a digest of
    all of them (see `games.digest`). Any other kernel calls only helpers of its own file and of
    `draws`, because Numba's cache looks no further (`tests/test_layers.py` checks this).
    """
    return cast(F, numba.njit(cache=True, **OPTIONS)(function))


def helper(function: F) -> F:
    """Compile a function that kernels and rules call; it is inlined and has no cache of its own."""
    return cast(F, numba.njit(forceinline=True, **OPTIONS)(function))
