"""What the servers are made of, fetched once from the package registries into a cache beside the project.

Each thing is fetched into a folder of its own and moved into place when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyspark
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lakehouse.crash.processes import UnavailableError

CONNECTOR = "com.google.cloud.bigdataoss:gcs-connector:4.0.4:shaded"
"""The newest with a shaded jar; without one its libraries and Spark's own shadow each other."""

DUCKDB = tuple(f"{package}==1.5.5" for package in ("duckdb", "duckdb-extensions", "duckdb-extension-delta"))
HADOOP = "org.apache.hadoop:hadoop-client-minicluster:3.4.2"
GCS = "github.com/fsouza/fake-gcs-server@v1.56.1"
"""Not the older one that a Python package carries: it ignores preconditions on resumable uploads."""

_DUCKDB = "1.5.5"
BIGQUERY = (
    "local-bigquery==0.3.2",
    *(f"{name}=={_DUCKDB}" for name in ("duckdb", "duckdb-extensions")),
    *(f"duckdb-extension-{name}=={_DUCKDB}" for name in ("icu", "ducklake", "httpfs", "spatial")),
)
_EXTENSIONS = """
from duckdb_extensions import import_extension
for name in ("icu", "ducklake", "httpfs", "spatial"):
    import_extension(name)
"""
_NEEDS_PYTHON = "3.13"

_SETTINGS = """<ivysettings><settings defaultResolver="registry"/><caches defaultCacheDir="{cache}"/><resolvers>
<ibiblio name="registry" m2compatible="true" usepoms="false" useMavenMetadata="false"/>
</resolvers></ivysettings>"""

_MODULE = """<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">
<info organisation="lakehouse" module="services"/><configurations><conf name="default"/></configurations>
<dependencies>{}</dependencies></ivy-module>"""


def cache() -> Path:
    """Outside of the tree, so that cleaning it or another clone of it costs no second download."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lakehouse-services"


def java() -> str:
    """The Java that Spark runs on, too."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        raise UnavailableError("there is no Java on this machine (JAVA_HOME or PATH)")
    return found


def spark_jars() -> Path:
    return Path(pyspark.__file__).parent / "jars"


def jars(name: str, coordinates: Sequence[str]) -> Path:
    """A folder with exactly these jars, `group:artifact:version[:classifier]`, by the Ivy that Spark brings along."""

    def fetch(folder: Path) -> None:
        (ivy,) = spark_jars().glob("ivy-*.jar")
        (folder / "settings.xml").write_text(_SETTINGS.format(cache=folder / "ivy"))
        (folder / "ivy.xml").write_text(_MODULE.format("".join(map(_dependency, coordinates))))
        pattern = f"{folder}/[artifact]-[revision](-[classifier]).[ext]"
        files = ["-settings", str(folder / "settings.xml"), "-ivy", str(folder / "ivy.xml")]
        _run([java(), "-jar", str(ivy), *files, "-retrieve", pattern])
        shutil.rmtree(folder / "ivy")
        found = len(list(folder.glob("*.jar")))
        if found != len(coordinates):
            raise UnavailableError(f"{found} of {len(coordinates)} jars of {name} could be fetched")

    return _once(name, fetch)


def bigquery_command() -> Path:
    """`local-bigquery` in an environment of its own: it needs another Python than the project may have."""

    def fetch(folder: Path) -> None:
        python = _python()
        environment = folder / "env"
        _run([python, "-m", "venv", str(environment)])
        inside = str(environment / "bin" / "python")
        _run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *BIGQUERY])
        _run([inside, "-c", _EXTENSIONS])

    # Scripts of an environment name their Python by its whole path, so the environment is run by its interpreter.
    return _once("local-bigquery", fetch) / "env" / "bin" / "python"


def duckdb_command() -> Path:
    """The interpreter of an environment whose DuckDB reads Delta tables; there is no such extension for our DuckDB."""

    def fetch(folder: Path) -> None:
        environment = folder / "env"
        _run([sys.executable, "-m", "venv", str(environment)])
        inside = str(environment / "bin" / "python")
        _run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *DUCKDB])
        _run([inside, "-c", "from duckdb_extensions import import_extension; import_extension('delta')"])

    return _once("duckdb-delta", fetch) / "env" / "bin" / "python"


def gcs_command() -> Path:
    def fetch(folder: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise UnavailableError("fake-gcs-server is built by Go, which this machine does not have")
        _run([go, "install", "-p", "2", GCS], GOBIN=str(folder))

    return _once("fake-gcs-server", fetch) / "fake-gcs-server"


def _once(name: str, fetch: Callable[[Path], None]) -> Path:
    folder = cache() / name
    if folder.is_dir():
        return folder
    cache().mkdir(parents=True, exist_ok=True)
    with _locked(cache() / f".{name}.lock"):
        if not folder.is_dir():
            aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
            try:
                with _working(f"services: fetches {name}"):
                    fetch(aside)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


@contextmanager
def _working(what: str) -> Iterator[None]:
    """The line, and on a terminal how long it has taken; none of these downloads says how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(what, file=sys.stderr)
        yield
        return
    with Progress(SpinnerColumn(), TextColumn(what), TimeElapsedColumn(), console=console) as bar:
        bar.add_task(what, total=None)
        yield


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _dependency(coordinate: str) -> str:
    group, artifact, version, *classifier = coordinate.split(":")
    mark = f' m:classifier="{classifier[0]}"' if classifier else ""
    return (
        f'<dependency org="{group}" name="{artifact}" rev="{version}" transitive="false" conf="default->*">'
        f'<artifact name="{artifact}" type="jar" ext="jar"{mark}/></dependency>'
    )


def _python() -> str:
    """A Python of the version needed: on the path, this one, or one of pyenv's."""
    name = f"python{_NEEDS_PYTHON}"
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [*map(str, sorted(versions.glob(f"{_NEEDS_PYTHON}*/bin/{name}"))), shutil.which(name)]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode == 0:
            return candidate
    raise UnavailableError(f"local-bigquery needs Python {_NEEDS_PYTHON}, which this machine does not have")


def _run(command: Sequence[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise UnavailableError(f"`{Path(command[0]).name}` could not fetch: {last}")
