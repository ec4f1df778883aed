"""A release is the code of a tree, a snapshot its configuration: both are named by what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import lakehouse
from lakehouse.config import Config, folder_of
from lakehouse.errors import ConfigError
from lakehouse.fleet.versions import Artifact

_CODE = ("lakehouse", "jobs", "pyproject.toml", "constraints.txt")
"""With what it needs of other packages: code that runs with others is another release."""
_HOME = Path(lakehouse.__file__).parent.parent
_DIGITS = 10


Parts = Mapping[str, Path]
"""What a release or a snapshot consists of: where each part is in it, and of what that is a copy."""
Brought = Mapping[Artifact, Parts]
"""What will be kept before anything is started."""
NOTHING_BROUGHT: Brought = MappingProxyType({})


def has_tree() -> bool:
    """Whether the code that runs now is a tree with jobs: not where a package was installed."""
    return (_HOME / "jobs" / "run.py").is_file()


def tree() -> Path:
    """The folder of the code that runs now; ConfigError where it has no jobs."""
    if not has_tree():
        raise ConfigError(
            str(_HOME / "jobs"),
            found="no jobs",
            expected="the project's tree, which a release is packed from",
            next_step="Run the command in the project's folder, or name a `release` in fleet.yaml that was deployed.",
        )
    return _HOME


def release_of(folder: Path) -> str:
    """Version and a digest of every file of the code: the same wherever and whenever the same code is packed."""
    return f"{lakehouse.__version__}+{_digest(code(folder))}"


def code(folder: Path) -> Parts:
    """What a release consists of."""
    return {name: folder / name for name in _CODE}


def configuration(config: Config) -> Parts:
    """What a snapshot consists of: the environment's file, its topics with their schemas, and its suites, as
    they lie together.

    What the file names by an absolute path is no part of it.
    """
    file = config.path.resolve()
    named = [config.settings.topics, config.settings.expectations]
    parts = [file, *((file.parent / name).resolve() for name in named if not Path(name).is_absolute())]
    schemas = folder_of(file, config.settings.topics).parent / "schemas"
    parts += [schemas] if schemas.is_dir() and not Path(config.settings.topics).is_absolute() else []
    base = Path(os.path.commonpath([part.parent for part in parts]))
    return {str(part.relative_to(base)): part for part in parts}


def snapshot_of(config: Config) -> str:
    return _digest(configuration(config))


def file_in_snapshot(config: Config) -> str:
    """Where the environment's file is in a snapshot."""
    return next(iter(configuration(config)))


def suites_hash(config: Config, topics: Iterable[str]) -> str:
    """Of the suites by which hours of these topics are judged."""
    files = {name: config.expectations / f"{name}.json" for name in ("_every_topic", *sorted(topics))}
    return _digest({name: file for name, file in files.items() if file.is_file()})


def copied(parts: Parts, to: Path) -> bool:
    """Copy the parts below `to`, all or nothing, for reading only; False where it is there already."""
    if to.is_dir():
        return False
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    for path in (path for part in parts.items() for path in part_files(*part)):
        (aside / path[0]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path[1], aside / path[0])
        (aside / path[0]).chmod(0o444)
    try:
        aside.rename(to)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not to.is_dir():
            raise
        return False
    return True


def _digest(parts: Parts) -> str:
    found = hashlib.sha256()
    for name, path in (path for part in sorted(parts.items()) for path in part_files(*part)):
        content = path.read_bytes()
        found.update(f"{name}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()[:_DIGITS]


def part_files(name: str, part: Path) -> Iterator[tuple[str, Path]]:
    """Each file of a part with its name in the copy; nothing that is hidden or made by Python."""
    if part.is_file():
        yield name, part
        return
    found: list[tuple[str, ...]] = []
    for folder, folders, files in os.walk(part):
        above = Path(folder).relative_to(part).parts
        folders[:] = filter(_is_kept, folders)
        found += [(*above, file) for file in filter(_is_kept, files)]
    for parts in sorted(found):
        path = part.joinpath(*parts)
        if path.is_file():
            yield "/".join((name, *parts)), path


def _is_kept(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"
