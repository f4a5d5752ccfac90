"""The machine and the software of a run, as far as figures depend on them."""

import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from libproto import __version__
from libproto.form import FORM

PACKAGES: Final = ("uvloop", "orjson", "crcmod", "hdrhistogram", "matplotlib")
_ROOT: Final = Path(__file__).resolve().parents[2]


def describe(seconds: float) -> dict[str, Any]:
    """seconds: of each run. What cannot be told is the empty text."""
    return {
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "seconds": seconds,
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "file_system": _file_system(tempfile.gettempdir()),
        "load_before": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "tradechat": __version__,
        "form": FORM.name,
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _field(path: str, name: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return ""


def _file_system(folder: str) -> str:
    """The type of the file system that a folder is on: the journal of the servers is there."""
    path = os.path.realpath(folder)
    best, found = "", ""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, kind, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, found = mount, kind
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Of the checkout, with a + where it has changes; empty outside of one."""

    def git(*words: str) -> str:
        done = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(_ROOT), *words],  # noqa: S607 - wherever the system keeps it
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip() if not done.returncode else ""

    try:
        found = git("rev-parse", "--short", "HEAD")
        return found + ("+" if found and git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""
