"""What the oracle tests need from outside: absent, they skip with a reason; under CI that is a failure."""

from __future__ import annotations

import importlib
import os
import shutil

import pytest

MUST = os.environ.get("REQUIRE_ORACLES") == "1"
"""Set where the oracles are installed for sure: a skipped oracle test would then hide a fault."""

FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/games"])


def need(module):
    """Return the imported module of an oracle."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return absent(f"{module} is not installed ({error}); pip install 'zeroloop[test]'")


def need_program(name, package):
    """Return the path of an oracle's program."""
    return shutil.which(name, path=FOLDERS) or absent(f"'{name}' is not installed; apt install {package}")


def absent(reason):
    """Skip the test, or fail it where the oracles must be there."""
    (pytest.fail if MUST else pytest.skip)(reason)
