"""Notices that the Baton which started this process is gone (docs/reference/managed-backends.md, "When the master is killed")."""

import asyncio
import os

from .backend import Backend


def watch_master(backend: Backend, deadline: float) -> None:
    """Drains when nothing is left that would stop or replace this process. Does nothing in a process that Baton has not started."""
    fd, _, inode = os.environ.get("BATON_MASTER_LIFELINE", "").partition(":")
    try:
        pipe = int(fd)
        if os.fstat(pipe).st_ino != int(inode):
            return
    except (ValueError, OSError):
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(pipe)
        backend.drain(deadline, "the broker that has started this process is gone")

    loop.add_reader(pipe, ended)  # It is never written to: what can be read is its end.
