"""Small files on this machine's disk for what never changes and takes long to get. Each may be lost at any time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

_FOLDER = "lakehouse-cache"
_DIGEST_BYTES = 32
"""Of SHA-256, with which a file begins: nothing waits for the disk, and a machine that fails leaves parts of files."""


def kept(kind: str, key: str) -> bytes | None:
    """What was kept under a key; None where nothing is, nothing that this user wrote, or something else by now."""
    try:
        file = _file(kind, key)
        written = file.read_bytes() if file.stat().st_uid == os.getuid() else b""
    except OSError:
        return None
    digest, content = written[:_DIGEST_BYTES], written[_DIGEST_BYTES:]
    return content if digest == _digest(content) else None


def keep(kind: str, key: str, content: bytes) -> None:
    """Keep it, whole or not at all; a disk that does not take it is no error."""
    try:
        file = _file(kind, key)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as written:
            written.write(_digest(content) + content)
        os.replace(written.name, file)
    except OSError:
        return


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _file(kind: str, key: str) -> Path:
    """In a folder that only this user can write to; OSError where it is another's."""
    folder = Path(tempfile.gettempdir(), f"{_FOLDER}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(str(folder))
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}"
