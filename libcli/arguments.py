"""The parser of command lines: argparse, whose output fails as that of the program does."""

import argparse
import sys
from typing import Final, NoReturn

from libcli.output import complain, put

EXIT_USAGE: Final = 2  # argparse's own


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose --help and --version raise OutputFailed where they cannot be written.

    argparse itself ignores that, so a script would take a cut help text for the whole. The parsers
    of its commands are of this class too.
    """

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and exit with EXIT_USAGE."""
        complain(f"{self.format_usage()}{self.prog}: error: {message}")
        sys.exit(EXIT_USAGE)

    def _print_message(self, message: str, file: object = None) -> None:
        # All that is left: --help and --version, which go to standard output.
        del file
        put(message)
