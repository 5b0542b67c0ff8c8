"""Which file systems several machines may use at a time: there, the lock of a file may hold on one of them only."""

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# Of one machine. Any other may be shared: nfs, nfs4, cifs, smb3, 9p, virtiofs, ceph, lustre, gpfs, fuse.sshfs ...
LOCAL = {
    "apfs",
    "bcachefs",
    "btrfs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "fuseblk",
    "hfsplus",
    "jfs",
    "ntfs",
    "ntfs3",
}
LOCAL |= {"overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "ufs", "vfat", "xfs", "zfs"}


def is_shared(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether other machines may use the file system of a folder, as far as this system tells."""
    device = os.stat(folder).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    # ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS ... - TYPE SOURCE ...: see proc(5)
    kinds = {line.partition(" - ")[2].partition(" ")[0] for line in lines if line.split(" ", 3)[2:3] == [name]}
    return bool(kinds - LOCAL)
