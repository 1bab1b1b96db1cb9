"""Images from a folder that is there already: linked or copied, never moved."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.common.outputs import check_replaceable, never
from roiseg.data.coco.layout import Coco, missing_images


def link_images(source: Path, target: Path, coco: Coco) -> bool:
    """Make `target` a symbolic link to the folder `source`; a real folder there stays if it is complete.

    Returns:
        Whether anything was changed.
    """
    if target.resolve() == source.resolve():
        return False
    refuse_link(target)
    if target.is_dir():
        if missing := missing_images(coco, target):
            raise UserError(
                f"{target} is a folder, not a link, and lacks {len(missing)} images (first {missing[0]}): "
                "complete it with images=copy, or remove it"
            )
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link-", dir=target.parent) as temporary:
        link = Path(temporary) / target.name
        try:
            link.symlink_to(source.resolve(), target_is_directory=True)
        except OSError as error:
            raise UserError(f"cannot link {target} to {source} ({error.strerror}): use images=copy") from None
        os.rename(link, target)
    return True


def copy_images(source: Path, target: Path, coco: Coco) -> int:
    """Copy the images of `coco` that are not in `target` with the same size.

    Returns:
        The number of files copied.
    """
    if not target.is_symlink() and target.resolve() == source.resolve():
        return 0
    link, source = target, source.resolve()  # before `target` goes, which may be a link on the way to it
    if link.is_symlink() and link.resolve() == source:
        link.unlink()  # as images=link makes it, of this very source
    own_folder(target)
    todo, size = [], 0
    for image in coco["images"]:
        wanted, there = source / image["file_name"], target / image["file_name"]
        length = wanted.stat().st_size
        if not there.is_file() or there.stat().st_size != length:
            check_replaceable(there, never)
            todo.append((wanted, there))
            size += length
    require_space(target, size, f"copying {len(todo)} images to {target}")
    for wanted, there in track(todo, f"copying {target.name}", len(todo)):
        with atomic_path(there, never) as temporary:
            shutil.copyfile(wanted, temporary)
    return len(todo)


def own_folder(folder: Path) -> None:
    """Make `folder`, unless a link is there: nothing is written through it into someone else's."""
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)


def refuse_link(folder: Path) -> None:
    """Raise a UserError where `folder` is a link, which this command cannot prove to have made."""
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {os.readlink(folder)}, not to images of this source: remove the link, or "
            "give another output_dir"
        )


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise a UserError if the disk of `folder` (which may not exist yet) has less than `size` bytes free."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(f"{what} needs {size / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free: make room, "
                        "or choose another disk with output_dir")  # fmt: skip
