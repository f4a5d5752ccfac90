"""As whom a server runs, what it leaves behind of its memory, and who else can write where it
writes."""

import grp
import os
import pwd
import resource
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from server.master.acquire import CannotStart

UMASK: Final = 0o077  # what the server makes is for nobody else
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def become(username: str) -> None:
    """Be this user from now on, with its groups and no others, for good. CannotStart: there is no
    such user, or this process may not."""
    try:
        entry = pwd.getpwnam(username)
    except KeyError as error:
        raise CannotStart(f"there is no user {username!r} on this machine; see --run-as") from error
    if os.geteuid() == entry.pw_uid and os.getuid() == entry.pw_uid:
        return  # as after an upgrade in place: the server that started this one had become it
    if os.geteuid() != 0:
        raise CannotStart(
            f"only root can become another user, and this is user {os.geteuid()}: start it as root,"
            " or without --run-as"
        )
    try:
        os.initgroups(username, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise CannotStart(f"cannot become {username}: {error.strerror}; see --run-as") from error


def keep_memory_private() -> None:
    """No memory of this process, or of its children, is written to a core dump: it holds keys and
    what people say. (core(5): a limit of 0 does not stop a dump that goes to a program, but one
    without any of the mappings holds nothing.)"""
    os.umask(UMASK)
    # A container may forbid either, which is not a reason to refuse to serve.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0")


def exposed(data: Path) -> str:
    """The path, of a data directory and those above it, that others than root and this user can
    write to, so that they could put another one in its place; empty where there is none."""
    mine = {0, os.geteuid()}
    path = data.absolute()
    for each in (path, *path.parents):
        try:
            status = each.stat()
        except OSError:
            continue  # it is made later, or the start says why it cannot
        loose = stat.S_IMODE(status.st_mode) & _OTHERS_WRITE
        own_group = _is_private(status.st_gid) and not status.st_mode & stat.S_IWOTH
        sticky = status.st_mode & stat.S_ISVTX and each != path
        if (loose and not sticky and not own_group) or status.st_uid not in mine:
            return str(each)
    return ""


def _is_private(gid: int) -> bool:
    """A group of one user, as many systems make for each: its members are that user."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return gid in (0, user.pw_gid) and set(group.gr_mem) <= {user.pw_name}
