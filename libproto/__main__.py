"""The command line: `python -m libproto decode HEX`, `dissector` and `doc`."""

import argparse
import io
import sys
from pathlib import Path
from typing import Final

import libproto
from libproto.describe import document, explain
from libproto.dissector import dissector

PROGRAM: Final = f"python -m {libproto.__name__}"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 good, 1 bad frames or a stale document, 2 usage."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The tradechat wire protocol, for people."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    decode = commands.add_parser("decode", help="explain a frame, or a stream of frames")
    decode.add_argument(
        "hex", nargs="+", metavar="HEX", help="the bytes in hex, spaces allowed; - reads them"
    )
    lua = commands.add_parser(
        "dissector", help="write a dissector for Wireshark and tshark, in Lua, to standard output"
    )
    lua.add_argument("--output", type=Path, metavar="PATH", help="write it there")
    doc = commands.add_parser("doc", help="write the protocol document")
    doc.add_argument("--check", action="store_true", help="only say whether it is up to date")
    doc.add_argument("--output", type=Path, default=Path("docs/PROTOCOL.md"), metavar="PATH")
    options = parser.parse_args(arguments)
    if options.command == "doc":
        return _doc(doc, options.output, options.check)
    if options.command == "dissector":
        return _dissector(lua, options.output)
    return _decode(decode, options.hex)


def _decode(parser: argparse.ArgumentParser, words: list[str]) -> int:
    text = sys.stdin.read() if words == ["-"] else " ".join(words)
    try:
        data = bytes.fromhex("".join(text.split()))
    except ValueError as error:
        parser.error(f"that is not hex: {error}")
    if not data:
        parser.error("there are no bytes to explain")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a chat's letters
    text, good = explain(data)
    sys.stdout.write(text)
    return 0 if good else 1


def _dissector(parser: argparse.ArgumentParser, path: Path | None) -> int:
    if path is None:
        sys.stdout.write(dissector())
        return 0
    try:
        path.write_text(dissector(), encoding="utf-8")
    except OSError as error:
        parser.error(f"{path}: {error.strerror}")
    return 0


def _doc(parser: argparse.ArgumentParser, path: Path, check: bool) -> int:
    text = document()
    try:
        if check:
            if path.exists() and path.read_text(encoding="utf-8") == text:
                return 0
            sys.stderr.write(f"{path} is not what the table says: run `{PROGRAM} doc`\n")
            return 1
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"{path}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
