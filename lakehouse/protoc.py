"""Texts of Protobuf schemas to descriptors, by protoc in a process of its own; what it made is kept on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from lakehouse import local_cache
from lakehouse.payload_types import UnreadableSchemaError

_LONGEST_SECONDS = 30
_LONGEST_COMPLAINT = 300
_LOGGED = re.compile(r"WARNING: All log messages before|[IWE][0-9]{4} ")
"""Lines that are about protoc itself."""
_ODD_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME = 200
"""Bytes of a path: file systems have names of 255."""
_OUT = "..out"
"""No name of a file below the folder."""


def compiled(main: str, texts: Mapping[str, str]) -> bytes:
    """The serialized FileDescriptorSet of the file `main` of `texts`, with what it imports, which comes before it.

    `texts` are by the names under which they are imported; Protobuf's own, `google/protobuf/*.proto`, need not be
    there. UnreadableSchemaError with what protoc says; OSError where it could not say it.
    """
    key = json.dumps([main, dict(sorted(texts.items()))])
    descriptors = local_cache.kept("protoc", key)
    if descriptors is None:
        descriptors = _by_protoc(main, texts)
        local_cache.keep("protoc", key, descriptors)
    return descriptors


def _by_protoc(main: str, texts: Mapping[str, str]) -> bytes:
    if find_spec("grpc_tools") is None:
        raise ModuleNotFoundError("No module named 'grpc_tools'", name="grpc_tools")
    with tempfile.TemporaryDirectory(prefix="lakehouse-protoc-") as name:
        folder = Path(name)
        _check_names(texts)
        for path, text in texts.items():
            file = folder / _below(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                file.write_text(text, encoding="utf-8")
            except UnicodeEncodeError as error:
                raise UnreadableSchemaError(f"{path} with {error.object[error.start]!r}, which is no text") from error
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports"]
        command += [f"--descriptor_set_out={_OUT}", str(_below(main))]
        done = _run(command, folder)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").split("\n")
            said = "; ".join(line for line in lines if line and not _LOGGED.match(line))
            raise UnreadableSchemaError(said[:_LONGEST_COMPLAINT] or f"that protoc ended with {done.returncode}")
        return (folder / _OUT).read_bytes()


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    """OSError where it was killed or took too long, which says nothing of the schema: this machine may be busy."""
    stdin = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=_LONGEST_SECONDS, check=False, stdin=stdin
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"protoc did not end in {_LONGEST_SECONDS} s") from error
    if done.returncode < 0:
        raise ChildProcessError(f"protoc was ended by signal {-done.returncode}")
    return done


def _check_names(paths: Iterable[str]) -> None:
    """UnreadableSchemaError for a file that is also a folder of others."""
    files = {_below(path) for path in paths}
    parent = next((each for file in files for each in file.parents if each in files), None)
    if parent is not None:
        raise UnreadableSchemaError(f"the name {str(parent)!r} of a file and of a folder")


def _below(path: str) -> PurePosixPath:
    """UnreadableSchemaError for a name that leads out of a folder."""
    relative = PurePosixPath(path)
    leads_out = relative.is_absolute() or ".." in relative.parts or not relative.parts or path.startswith("-")
    if leads_out or _ODD_IN_NAMES.search(path) or len(path.encode()) > _LONGEST_NAME:
        raise UnreadableSchemaError(f"the name {path[:_LONGEST_NAME]!r}, which is no path below a folder")
    return relative
