"""The form of our modules (libproto/form.py) in the process of the tests: interpreted, as many of
them patch functions and count stores; with TRADECHAT_TESTS=compiled, compiled.

To be imported before anything of ours. Programs that a test starts run in the form that users get.
"""

import os
from typing import Final

import pytest

COMPILED: Final = os.environ.get("TRADECHAT_TESTS") == "compiled"
"""This run is about the compiled form."""

_VARIABLE: Final = "TRADECHAT_PURE"
_former: Final = os.environ.pop(_VARIABLE, None)
if not COMPILED:
    os.environ[_VARIABLE] = "1"
from libproto.form import FORM  # noqa: E402

os.environ.pop(_VARIABLE, None)
if _former is not None:
    os.environ[_VARIABLE] = _former


def check() -> None:
    """RuntimeError where the run is to be about one form and would be about the other."""
    if (FORM.name == "compiled") != COMPILED:
        raise RuntimeError(f"these modules are {FORM.name}: {FORM.reason}: {FORM.advice}")


def stores_are_seen() -> None:
    """For a test that looks at, or counts, single stores: compiled code makes them past Python, and
    that it makes the same ones in the same order is what the crash images show."""
    if COMPILED:
        pytest.skip("the stores of compiled code are looked at by the crash images")
