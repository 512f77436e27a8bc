"""The forgetful disk as a file system that programs can use, and the switch for its power.

Each life of the machine is a folder of its own below the mount point: `1`, `2`, … When the power
goes, every operation in the current folder fails from then on, and what survived appears in the
next one. So no cache of the kernel can bring back what is lost.

It is told what to do by lines of JSON on its standard input and answers each with one; when the
input ends it unmounts itself and leaves, so that nothing stays behind a test that was killed.

    python -m tests.chaos.forgetful_mount MOUNT_POINT
"""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.forgetful_disk import Folder, Inode, Survivors

__all__ = ["ForgetfulDisk", "unmount"]


class ForgetfulDisk:
    """Operations by path, as FUSE's high-level interface asks for them; one at a time."""

    use_ns = True

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.lives: list[Folder] = [Folder()]
        self.is_out = False
        self.changes = 0
        """Writes, syncs and changes of names in this life."""
        self.syncs = 0
        self.lost_syncs = 0
        self.cut_at: int | None = None
        self.lose_sync_at: int | None = None
        self._handles: dict[int, tuple[int, Inode]] = {}
        self._next_handle = 0

    # --------------------------------------------------------------------------- the power switch

    def arm(self, cut_at: int | None, lose_sync_at: int | None) -> None:
        """When, counted in changes (in syncs) of this life, the power goes (a sync fails)."""
        with self._mutex:
            self.cut_at, self.lose_sync_at = cut_at, lose_sync_at

    def cut(self, survivors: Survivors, seed: int) -> dict[str, Any]:
        with self._mutex:
            facts = {"changes": self.changes, "life": len(self.lives) + 1}
            left = self.lives[-1].after_a_cut(survivors, Random(seed))
            self.lives[-1] = Folder()  # Nobody can reach it any more.
            self.lives.append(Folder(left))
            self.is_out, self.changes, self.syncs, self.lost_syncs = False, 0, 0, 0
            self.cut_at = self.lose_sync_at = None
        return facts

    def wipe(self) -> dict[str, Any]:
        """A new disk."""
        with self._mutex:
            self.lives[-1] = Folder()
        return self.cut("nothing", 0)

    def contents(self) -> dict[str, bytes]:
        with self._mutex:
            return {name: bytes(inode.data) for name, inode in self.lives[-1].names.items()}

    def state(self) -> dict[str, Any]:
        with self._mutex:
            return {"out": self.is_out, "changes": self.changes, "lost_syncs": self.lost_syncs}

    def _changing(self) -> None:
        self.changes += 1
        if self.cut_at is not None and self.changes >= self.cut_at:
            self.is_out = True
            raise OSError(errno.EIO, "the power is out")

    # ------------------------------------------------------------------------------- finding files

    def _folder(self, life: str) -> Folder:
        if not life.isdigit() or not 0 < int(life) <= len(self.lives):
            raise OSError(errno.ENOENT, life)
        if int(life) < len(self.lives) or self.is_out:
            raise OSError(errno.EIO, "the power is out")
        return self.lives[-1]

    def _place(self, path: str) -> tuple[Folder, str]:
        life, _, name = path.strip("/").partition("/")
        return self._folder(life), name

    def _inode(self, path: str | None, handle: int | None) -> Inode:
        if handle is not None and handle in self._handles:
            life, inode = self._handles[handle]
            self._folder(str(life))
            return inode
        if path is None:
            raise OSError(errno.ENOENT, "no path")
        folder, name = self._place(path)
        if name not in folder.names:
            raise OSError(errno.ENOENT, path)
        return folder.names[name]

    def _opened(self, inode: Inode) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = (len(self.lives), inode)
        return self._next_handle

    # ------------------------------------------------------------------------------ what FUSE asks

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        with self._mutex:
            if path is not None and path.count("/") == 1:
                if path != "/":
                    self._folder(path[1:])
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            inode = self._inode(path, fh)
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": len(inode.data)}

    def readdir(self, path: str, fh: int) -> list[str]:
        with self._mutex:
            if path == "/":
                return [".", "..", str(len(self.lives))]
            return [".", "..", *self._place(path)[0].names]

    def create(self, path: str, mode: int, fi: int | None = None) -> int:
        with self._mutex:
            folder, name = self._place(path)
            self._changing()
            folder.names[name] = Inode()
            return self._opened(folder.names[name])

    def open(self, path: str, flags: int) -> int:
        with self._mutex:
            return self._opened(self._inode(path, None))

    def release(self, path: str, fh: int) -> int:
        with self._mutex:
            self._handles.pop(fh, None)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with self._mutex:
            return bytes(self._inode(path, fh).data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._mutex:
            inode = self._inode(path, fh)
            self._changing()
            inode.write(offset, bytes(data))
            return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        with self._mutex:
            inode = self._inode(path, fh)
            self._changing()
            inode.truncate(length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        with self._mutex:
            inode = self._inode(path, fh)
            self._changing()
            self.syncs += 1
            if self.syncs == self.lose_sync_at:
                inode.forget()
                self.lost_syncs += 1
                raise OSError(errno.EIO, "this sync has failed, and the next will not say so")
            inode.sync()
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        with self._mutex:
            folder, _ = self._place(path)
            self._changing()
            folder.sync()
        return 0

    def unlink(self, path: str) -> int:
        with self._mutex:
            folder, name = self._place(path)
            if name not in folder.names:
                raise OSError(errno.ENOENT, path)
            self._changing()
            del folder.names[name]
        return 0

    def chmod(self, path: str, mode: int) -> int:
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0


def unmount(point: Path) -> None:
    """At once, whoever still uses it."""
    subprocess.run(["fusermount3", "-u", "-q", "-z", str(point)], check=False, timeout=10)


def _obey(disk: ForgetfulDisk, point: Path) -> None:
    """Answer every order; leave when there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        match order.pop("do"):
            case "arm":
                disk.arm(**order)
            case "cut":
                answer = disk.cut(**order)
            case "wipe":
                answer = disk.wipe()
            case "save":
                for name, content in disk.contents().items():
                    Path(order["to"], name).write_bytes(content)
            case "state":
                answer = disk.state()
            case other:
                raise ValueError(other)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    unmount(point)
    os._exit(0)


def main() -> None:
    # Only this process needs it: where it is not installed, the others still find the model.
    from mfusepy import FUSE  # type: ignore[import-untyped]

    point = Path(sys.argv[1])
    disk = ForgetfulDisk()
    threading.Thread(target=_obey, args=(disk, point), daemon=True).start()
    FUSE(
        disk,
        str(point),
        foreground=True,
        nothreads=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname="forgetful",
        subtype="forgetful",
    )


if __name__ == "__main__":
    main()
