"""`python -m tests.crash_images [OPERATION...]`: step through them, repair every image.

Exit code 0: all repaired, no store is torn. 1: not so. 3: this system does not let us trace.
"""

import argparse
import json
import sys
import time

from libproto.form import COMPILED, FORM
from tests.crash_images.histories import Values
from tests.crash_images.operations import BY_NAME, OPERATIONS, Operation, World
from tests.crash_images.tracer import NotPermitted
from tests.crash_images.verdict import Report, examine, stored_here
from tests.helpers import crash

PROBLEMS_MAX = 8


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _row(report: Report, seconds: float) -> str:
    states = "+".join(map(str, report.states))
    return (
        f"{report.name:<24}{report.instructions:>13,}{report.images:>8}{report.repaired:>10}"
        f"  {states:<16}{report.torn_in_blocks:>6}{seconds:>7.1f}"
    )


def _values(operation: Operation) -> Values:
    with crash.small_region(**operation.capacities) as region:
        return stored_here(operation, World(region, operation))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="crash-images", description=__doc__)
    parser.add_argument(
        "operation", nargs="*", help=f"all by default: {', '.join(BY_NAME)}", metavar="OPERATION"
    )
    parser.add_argument(
        "--values",
        action="store_true",
        help="print what one operation stores, by word, as JSON: for the form that is compiled",
    )
    options = parser.parse_args(arguments)
    names = options.operation
    if unknown := set(names) - set(BY_NAME):
        parser.error(f"no such operation: {', '.join(sorted(unknown))}")
    if options.values:
        if len(names) != 1:
            parser.error("--values is of one operation")
        _say(json.dumps(_values(BY_NAME[names[0]])))
        return 0
    _say(f"{FORM.name}:")
    _say(
        f"{'operation':<24}{'instructions':>13}{'images':>8}{'repaired':>10}"
        f"  {'by state':<16}{'blobs':>6}{'s':>7}"
    )
    reports = []
    for operation in [BY_NAME[name] for name in names] or OPERATIONS:
        if FORM.name == COMPILED and operation.counts_stores:
            _say(
                f"{operation.name:<24} of the interpreted form only: its preparation counts stores"
            )
            continue
        began = time.monotonic()
        try:
            report = examine(operation)
        except NotPermitted as error:
            sys.stderr.write(
                f"crash-images: a process may not be traced here ({error}): run it where ptrace is "
                "allowed, in a container with --cap-add=SYS_PTRACE\n"
            )
            return 3
        reports.append(report)
        _say(_row(report, time.monotonic() - began))
        for problem in report.problems[:PROBLEMS_MAX]:
            _say(f"  {problem}")
        if len(report.problems) > PROBLEMS_MAX:
            _say(f"  and {len(report.problems) - PROBLEMS_MAX} more")
    images = sum(report.images for report in reports)
    repaired = sum(report.repaired for report in reports)
    good = all(report.good for report in reports)
    _say(
        f"{sum(report.instructions for report in reports):,} instructions, {images} images, "
        f"{repaired} repaired: {'all is well' if good else 'NOT all is well, see above'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
