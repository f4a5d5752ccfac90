"""Fuzz what reads bytes, by what it covers, with atheris; `make fuzz` installs it.

    python -m tests.fuzz                  every target, 60 s each
    python -m tests.fuzz codec --runs N   one of them, so many executions
    python -m tests.fuzz --replay FILE    a finding once more

Progress goes to standard error, one line for each target to standard output. What it has learned is
kept, so that the next run goes on from there, and findings are files beside it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from libproto import form
from tests.fuzz.corpus import FOLDER
from tests.fuzz.targets import TARGETS

ROOT: Final = Path(form.__file__).parents[1]
KEPT: Final = ROOT / ".fuzz"
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


class Result(NamedTuple):
    """Of one target, in one run."""

    executions: int
    seconds: float
    findings: list[str]


def run(target: str, seconds: int, runs: int, kept: Path) -> Result:
    """runs: 0: as many as there is time for."""
    learned, findings = kept / "corpus" / target, kept / "findings"
    learned.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    before = set(findings.glob(f"{target}-*"))
    command = [
        sys.executable, "-m", f"{__package__}.one", target, f"-max_total_time={seconds}",
        *([f"-runs={runs}"] if runs else []), f"-artifact_prefix={findings}/{target}-",
        "-print_final_stats=1", "-max_len=4096", "-timeout=30", "-rss_limit_mb=2048",
        str(learned), str(FOLDER / target),
    ]  # fmt: skip
    began, executions = time.monotonic(), 0
    # Compiled modules are not instrumented: interpreted, it sees which ways are taken.
    environment = {**os.environ, "TRADECHAT_PURE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if told := _EXECUTED.match(line):
                executions = int(told[1])
    found = sorted(str(path) for path in set(findings.glob(f"{target}-*")) - before)
    if process.returncode and not found:
        found = [f"exit code {process.returncode}, see above"]
    return Result(executions, time.monotonic() - began, found)


def _add_up(target: str, result: Result, kept: Path) -> int:
    """Executions of this target in all runs."""
    path = kept / "executions.json"
    counts: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    counts[target] = counts.get(target, 0) + result.executions
    path.write_text(json.dumps(counts, indent=2) + "\n")
    return counts[target]


def replay(path: Path) -> int:
    """A finding; its name begins with its target."""
    TARGETS[path.name.partition("-")[0]](path.read_bytes())
    sys.stdout.write(f"{path}: nothing is found\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="of each target (60)")
    parser.add_argument("--runs", type=int, default=0, help="of each target, at most")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where it keeps what it learns")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a finding once more")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}")
    options.kept.mkdir(exist_ok=True)
    found = 0
    for target in options.targets or TARGETS:
        result = run(target, options.seconds, options.runs, options.kept)
        total = _add_up(target, result, options.kept)
        found += len(result.findings)
        sys.stdout.write(
            f"{target}: {result.executions} executions in {result.seconds:.0f} s, {total} in all "
            f"runs; findings: {', '.join(result.findings) or 'none'}\n"
        )
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
