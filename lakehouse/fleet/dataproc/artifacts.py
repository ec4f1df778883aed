"""What jobs are made of, in a folder of the store: nothing there ever changes.

releases/<release>/lakehouse.zip, run.py, …, environment             code, jobs, and the name of their packages
environments/<digest>.tar.gz                                         packages, see `environment`
snapshots/<digest>.zip                                               conf/ and expectations/
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from lakehouse.errors import ConfigError, LakeError, UnknownOutcomeError, in_one_line
from lakehouse.fleet import releases
from lakehouse.fleet.dataproc.environment import Recipe, recipe_of
from lakehouse.fleet.dataproc.jobs import Materials
from lakehouse.fleet.releases import NOTHING_BROUGHT, Brought, Parts
from lakehouse.fleet.versions import Launch
from lakehouse.fleet.wanted import Dataproc
from lakehouse.store.files import Storage

_STAYS_HERE = ("lakehouse/crash/", "lakehouse/sandbox/")
"""What no cluster runs."""
_SAME_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in an archive: the same code is the same archive."""
NEEDS_PACKAGE = "Run `lakehouse dataproc package`: it takes some minutes, once for each change of constraints.txt."


class Artifacts:
    """Releases, environments and snapshots in a folder. `section` says for which Python environments are made."""

    def __init__(self, storage: Storage, section: Dataproc) -> None:
        self._storage, self._section = storage, section

    def keep_release(self, name: str, parts: Parts) -> bool:
        """The code at its place, with the name of its environment; False where it is there. The jobs are of `jobs/`."""
        folder = release_folder(name)
        if self._storage.read(f"{folder}/environment") is not None:
            return False
        files = [each for part in sorted(parts.items()) for each in releases.part_files(*part)]
        code = [(path, file) for path, file in files if path.startswith("lakehouse/")]
        self._put(f"{folder}/lakehouse.zip", zipped(each for each in code if not each[0].startswith(_STAYS_HERE)))
        for path, file in files:
            if path.startswith("jobs/"):
                self._put(f"{folder}/{path.removeprefix('jobs/')}", file.read_bytes())
        recipe = recipe_of(parts, self._section)
        self._put(f"{folder}/environment", recipe.digest.encode())  # the last one: it says that all is there
        return True

    def keep_snapshot(self, name: str, parts: Parts) -> bool:
        content = zipped(each for part in sorted(parts.items()) for each in releases.part_files(*part))
        return self._put(f"snapshots/{name}.zip", content)

    def keep_environment(self, recipe: Recipe, archive: bytes) -> bool:
        return self._put(_environment(recipe.digest), archive)

    def has_environment(self, recipe: Recipe) -> bool:
        return self._is_there(_environment(recipe.digest))

    def materials(self, launch: Launch, brought: Brought = NOTHING_BROUGHT) -> Materials:
        """Where all of it is, or will be once it is brought; ConfigError for what is missing, with what is there."""
        version = launch.version
        return self.of(f"application {launch.application}", version.release, version.snapshot, brought=brought)

    def of(
        self, subject: str, release: str, snapshot: str, job: str = "run", brought: Brought = NOTHING_BROUGHT
    ) -> Materials:
        """The same of any job of `jobs/`; `subject` is who needs it, for errors."""
        environment = self._environment_of(release, brought.get(("releases", release)))
        if environment is None:
            raise self._missing(f"{subject}: release {release}", "releases", release_folder(release))
        file = f"snapshots/{snapshot}.zip"
        if ("snapshots", snapshot) not in brought and not self._is_there(file):
            raise self._missing(f"{subject}: snapshot {snapshot}", "snapshots", file)
        packages = _environment(environment)
        if not self._is_there(packages):
            raise ConfigError(
                f"{subject}: release {release}",
                found=f"no packages for it at {self._storage.address(packages)}",
                expected="the environment that its constraints.txt names",
                next_step=NEEDS_PACKAGE,
            )
        return self.addresses(release, snapshot, environment, job)

    def addresses(self, release: str, snapshot: str, environment: str, job: str = "run") -> Materials:
        """Where all of it is, or will be."""
        folder, address = release_folder(release), self._storage.address
        return Materials(
            main=address(f"{folder}/{job}.py"),
            code=address(f"{folder}/lakehouse.zip"),
            environment=address(_environment(environment)),
            snapshot=address(f"snapshots/{snapshot}.zip"),
        )

    def spark_of(self, launch: Launch) -> dict[str, str]:
        """Spark's settings in the environment's file of the launch's own configuration; ConfigError where the snapshot
        is not as it was kept."""
        path = f"snapshots/{launch.version.snapshot}.zip"
        try:
            with zipfile.ZipFile(io.BytesIO(self._storage.read(path) or b"")) as archive:
                values = yaml.safe_load(archive.read(launch.version.conf)) or {}
        except (zipfile.BadZipFile, zlib.error, KeyError, yaml.YAMLError) as damaged:
            raise ConfigError(
                f"application {launch.application}: snapshot {launch.version.snapshot}",
                found=f"a damaged file at {self._storage.address(path)} ({in_one_line(damaged)})",
                expected=f"an archive with {launch.version.conf}",
                next_step="Remove that file, and deploy that configuration again.",
            ) from damaged
        return {str(name): str(value) for name, value in (values.get("spark") or {}).items()}

    def _environment_of(self, release: str, parts: Parts | None) -> str | None:
        """The digest of its packages; None for a release that is neither there nor brought as these parts."""
        content = self._storage.read(f"{release_folder(release)}/environment")
        if content is not None:
            return content.decode()
        return recipe_of(parts, self._section).digest if parts is not None else None

    def _put(self, path: str, content: bytes) -> bool:
        """Where no answer comes, it is tried once more: the same bytes are there, or are written."""
        try:
            return self._storage.put_if_absent(path, content)
        except UnknownOutcomeError:
            return self._storage.put_if_absent(path, content)

    def _is_there(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return any(each.path == path for each in self._storage.walk(folder, since=name, before=f"{name}0"))

    def _missing(self, subject: str, folder: str, path: str) -> ConfigError:
        """Of releases the names as they are in addresses."""
        listed = {each.path.split("/")[1].removesuffix(".zip") for each in self._storage.listing(folder)}
        return ConfigError(
            subject,
            found=f"nothing at {self._storage.address(path)}",
            expected="one of " + (", ".join(sorted(listed)) or "(there are none)"),
            next_step="Check the name, or deploy that tree's code again.",
        )


def release_folder(release: str) -> str:
    """A + in an address is a blank to some."""
    return f"releases/{release}" if "+" not in release else f"releases/{release.replace('+', '-')}"


def zipped(files: Iterable[tuple[str, Path]]) -> bytes:
    """A zip of files by their names in it, the same for the same files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(files):
            entry = zipfile.ZipInfo(name, _SAME_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _environment(digest: str) -> str:
    return f"environments/{digest}.tar.gz"


@contextmanager
def store_errors(folder: str, key: str) -> Iterator[None]:
    """What a store says of a folder, in an operator's words; `key` is where its address is configured.

    ConfigError where it is not there or gives no access, else LakeError.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (NotFound, Forbidden, Unauthorized, GoogleAuthError) as refused:
        raise ConfigError(
            folder,
            found=in_one_line(refused),
            expected="a bucket that there is, with roles/storage.objectAdmin for whoever runs this",
            next_step=f"Create the bucket or grant the role, log in by `gcloud auth application-default login`, or "
            f"correct {key}.",
        ) from refused
    except (OSError, GoogleAPIError) as refused:
        raise LakeError(
            folder,
            found=in_one_line(refused),
            expected="a folder that can be read and written",
            next_step=f"Give access or make room, or correct {key}.",
        ) from refused
