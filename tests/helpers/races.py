"""Another process that acts between any two calls to the file system."""

import os
from contextlib import contextmanager

CALLS = ("stat", "lstat", "scandir", "listdir", "unlink", "rmdir", "rename", "replace", "mkdir", "open")


@contextmanager
def acting_before_call(number, folder, act, monkeypatch):
    """Call `act` once in the block, before call `number` (from 0) about a path in `folder`.

    Yields a list that is no longer empty once it has acted. Folders with names of two letters do not count.
    """
    acted, left = [], number
    real = {name: getattr(os, name) for name in CALLS}

    def watched(name):
        def call(path=".", *args, **kwargs):
            nonlocal left
            if not acted and str(path).startswith(str(folder)) and len(os.path.basename(path)) != 2:
                if not left:
                    acted.append(path)
                    act()
                left -= 1
            return real[name](path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watched(name))
        yield acted
