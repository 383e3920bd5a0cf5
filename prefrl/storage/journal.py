"""How SQLite may keep what is being written to a file, which its file system decides.

A log that is written ahead (WAL) lets some read while others write, and takes one wait for the disk
a commit. Its index is memory that the processes of one machine share, so it serves no network file
system: there SQLite's older journal stands in.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# What several machines may have mounted. SQLite cannot tell: a log of one machine works, too.
NETWORK = {
    "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs",
    "nfs4", "pvfs2", "smb3", "smbfs",
}  # fmt: skip


def why_not_ahead(folder: Path) -> str:
    """Return why a folder's files take no log that is written ahead, "" if they do."""
    kind = _file_system(folder.resolve())
    if kind in NETWORK:
        return f"it is on {kind}, a network file system"
    with tempfile.TemporaryDirectory(prefix=".journal-", dir=folder) as scratch:
        try:
            with closing(sqlite3.connect(Path(scratch) / "probe", isolation_level=None)) as probe:
                (mode,) = probe.execute("PRAGMA journal_mode = WAL").fetchone()
                probe.execute("PRAGMA synchronous = OFF")
                probe.execute("CREATE TABLE probe (value INTEGER)")
        except sqlite3.OperationalError as error:
            return f"its file system refuses one ({error})"
    return "" if mode == "wal" else "its file system has no memory to share for one"


def _file_system(folder: Path) -> str:
    """Return what kind of file system a folder is on, "" where that is not told."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:  # 36 35 98:0 / /mounted/here rw,noatime master:1 - nfs4 server:/ rw
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        if folder.is_relative_to(point):
            kinds[point] = after.split()[0]  # one that is mounted over another comes later
    return kinds[max(kinds, key=len)] if kinds else ""
