"""One target under atheris, in a process of its own: `python -m tests.fuzz.one TARGET FLAGS`, with
the flags of libFuzzer. Run by `python -m tests.fuzz`, which says with what."""

import sys

import atheris

with atheris.instrument_imports(include=["libproto", "client", "server"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
