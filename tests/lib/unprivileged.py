"""What a user without any privilege may do, asked by root."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator

NOBODY = 65534


def as_nobody(function: Callable[[], object]) -> object:
    """What a function returns to a process without any privilege.

    A fork, not a new interpreter: nobody may be unable to read this one.

    Args:
        function: Called there; its result, or the exception that ended it, is
            pickled.

    Returns:
        That result or exception.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            answer = function()
        except BaseException as error:
            answer = error
        os.write(sender, pickle.dumps(answer))
        os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as source:
        answer = pickle.load(source)
    os.waitpid(child, 0)
    return answer


@contextlib.contextmanager
def public_directory() -> Iterator[pathlib.Path]:
    """A directory that is nobody's, who may enter and write it; its files go."""
    name = f"virtdisk-{os.getpid()}-{os.urandom(4).hex()}"
    directory = pathlib.Path("/tmp") / name
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    try:
        yield directory
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
