"""`python -m bench.faults`: break a server under load, and say what became of what it promised."""

import argparse
import json
import sys
from typing import Final

from bench import faults
from bench.faults.report import Report
from bench.faults.script import Options
from bench.faults.scripts import SCRIPTS
from bench.lab.cli import EXIT_GOOD, EXIT_VIOLATED, Program

PROGRAM: Final = Program(f"python -m {faults.__name__}")
ALL: Final = "all"

_ABOUT: Final = """\
Break a tradechat server under load, and judge what its clients then saw: money lost, executed
twice or not conserved, room events lost without being told. A server is started for it, and ended;
or name one of your own with --port and --pid. Do that only with one that nobody else uses: users
are registered, rooms 1 to 8 are talked in, and the server is really broken.
"""
_EXAMPLES: Final = f"""\
examples:
  {PROGRAM.name} all                       each script for a minute
  {PROGRAM.name} kill9 --every 0.1         more kills
  {PROGRAM.name} stop --port 7878 --pid 4242
                                                   a server of yours; the pid of its master is in
                                                   the line that it prints when it is ready

exit codes: 0 all promises kept, 1 one was broken, 2 wrong usage, 3 there is no result: the server
does not start, or the users cannot log in; 130 interrupted, 143 terminated, the server being
ended in order in both cases
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    scripts = made.add_subparsers(dest="script", required=True, metavar="SCRIPT")
    for name, about, every in (
        *(
            (s.name, s.about, f"{s.every_about} so many seconds (default {s.every_s:g})")
            for s in SCRIPTS
        ),
        (ALL, "all of them, one after the other", ""),
    ):
        one = scripts.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        _add_options(one, every)
    return made


def _add_options(one: argparse.ArgumentParser, every: str) -> None:
    one.add_argument("--seconds", type=_positive, default=60.0, help="how long (default 60)")
    one.add_argument("--connections", type=int, default=100, help="one user each (default 100)")
    if every:
        one.add_argument("--every", type=_positive, help=every)
    one.add_argument(
        "--rate", type=_positive, default=1000.0, help="requests per second, of all (default 1000)"
    )
    one.add_argument(
        "--workers", type=int, default=4, help="of the script's own server (default 4)"
    )
    one.add_argument("--seed", type=int, default=1, help="of what is random (default 1)")
    one.add_argument("--json", action="store_true", help="a JSON object per script, for a table")
    named = one.add_argument_group("a server of your own")
    named.add_argument("--host", default="127.0.0.1", help="its address (default 127.0.0.1)")
    named.add_argument("--port", type=int, default=0, help="its port")
    named.add_argument("--pid", type=int, default=0, help="process id of its master")
    named.add_argument("--name", default="", help="its --name, if it was given one")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a million")
    return value


def _options(made: argparse.ArgumentParser, arguments: argparse.Namespace) -> Options:
    needs_pid = any(s.needs_pid for s in SCRIPTS if arguments.script in (s.name, ALL))
    needs_own = any(s.needs_own for s in SCRIPTS if arguments.script == s.name)
    if arguments.port and needs_own:
        made.error(f"{arguments.script} starts its server again and again: not one on --port")
    if arguments.connections < 4 or arguments.workers < 1:
        made.error("--connections must be at least 4, --workers at least 1")
    if arguments.port and needs_pid and not arguments.pid:
        made.error(f"{arguments.script} needs --pid, the master of the server on --port")
    if arguments.pid and not arguments.port:
        made.error("--pid is of the server on --port: name that too")
    return Options(
        seconds=arguments.seconds,
        connections=arguments.connections,
        every=getattr(arguments, "every", None),
        rate=arguments.rate,
        workers=arguments.workers,
        seed=arguments.seed,
        host=arguments.host,
        port=arguments.port,
        pid=arguments.pid,
        name=arguments.name,
    )


def _show(report: Report, *, as_json: bool) -> None:
    PROGRAM.tell(json.dumps(report.as_object()) if as_json else report.as_table() + "\n")


def main() -> int:
    """Answers the exit code."""
    made = parser()
    arguments = made.parse_args()
    options = _options(made, arguments)

    def body() -> int:
        code = EXIT_GOOD
        for script in SCRIPTS:
            if arguments.script == ALL and options.port and script.needs_own:
                PROGRAM.warn(f"{script.name} is left out: it starts servers of its own")
            elif arguments.script in (script.name, ALL):
                report = script.run(options)
                _show(report, as_json=arguments.json)
                code = code if report.good else EXIT_VIOLATED
        return code

    return PROGRAM.run(body)


if __name__ == "__main__":
    sys.exit(main())
