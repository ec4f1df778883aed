"""A cluster's Python packages in one archive that runs wherever it is unpacked.

The interpreter is the image's own: nodes have no way to PyPI, and their packages are not ours. In the archive are
`site-packages/`, taken as wheels for the image's Python and platform, and `bin/python`, which finds the interpreter and
lets it see these packages alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lakehouse.errors import ConfigError, in_one_line
from lakehouse.fleet.wanted import Dataproc

PLATFORM = "x86_64-manylinux_2_34"
"""glibc of the oldest system that image 3.0 comes on, Rocky 9; Debian 13 and Ubuntu 24 have newer ones."""
LEFT_TO_THE_IMAGE = ("pyspark", "py4j", "delta_spark")
"""A second one beside the cluster's own would be another version of it."""
NOT_FOR_CLUSTERS = ("local", "dataproc", "sandbox", "all", "dev", "docs")
"""Extras: a cluster brings its own Spark, and starts nobody's jobs."""
_LAYOUT = 1
_ROOT = "environment"

_PYTHON = """#!/bin/sh
# Python {version} of this machine with the packages beside this file, and with no others (-S).
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd) || exit 126
fits() {{ "$1" -S -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{version}")' > /dev/null 2>&1; }}
for python in "${{LAKEHOUSE_PYTHON:-}}" python{version} /opt/*/bin/python{version} /opt/*/*/bin/python{version} \\
    /opt/*/*/*/bin/python{version} /opt/*/*/*/*/bin/python{version} python3 python; do
    [ -n "$python" ] && fits "$python" || continue
    PYTHONPATH="$here/site-packages${{PYTHONPATH:+:$PYTHONPATH}}" exec "$python" -S "$@"
done
echo "$0: found no Python {version} here; set LAKEHOUSE_PYTHON to one" >&2
exit 127
"""


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of: lines for the installer, Python's version, and the versions that are pinned."""

    requirements: tuple[str, ...]
    python: str
    constraints: str

    @property
    def digest(self) -> str:
        """The same wherever and whenever it is made."""
        text = "\0".join([*sorted(self.requirements), self.python, PLATFORM, str(_LAYOUT), self.constraints])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_of(parts: Mapping[str, Path], section: Dataproc) -> Recipe:
    """Of a release, whose `pyproject.toml` and `constraints.txt` are among its parts; ConfigError without them."""
    for name in ("pyproject.toml", "constraints.txt"):
        if name not in parts or not parts[name].is_file():
            raise ConfigError(
                f"release: {name}",
                found="no such file in the tree",
                expected="the packages that the code needs, and their versions",
                next_step="Run the command in the project's folder.",
            )
    project = tomllib.loads(parts["pyproject.toml"].read_text(encoding="utf-8"))["project"]
    known = project.get("optional-dependencies", {})
    for extra in section.extras:
        if extra not in known or extra in NOT_FOR_CLUSTERS:
            raise ConfigError(
                "dataproc.extras",
                found=repr(extra),
                expected="some of " + ", ".join(each for each in known if each not in NOT_FOR_CLUSTERS),
                next_step="Correct fleet.yaml.",
            )
    wanted = [*project["dependencies"], *(each for extra in section.extras for each in known[extra])]
    pins = [line for line in parts["constraints.txt"].read_text(encoding="utf-8").splitlines() if "==" in line]
    return Recipe(tuple(sorted(set(wanted))), section.python, "\n".join(pins))


Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build(recipe: Recipe, run: Run = _run) -> bytes:
    """The archive; ConfigError where a package cannot be had for the image's Python and platform, or is the image's.

    The same where the folder for temporary files, in which it is made, cannot be written.
    """
    try:
        return _built(recipe, run)
    except OSError as refused:
        raise ConfigError(
            f"packages for Python {recipe.python}",
            found=in_one_line(refused),
            expected="a folder for temporary files that can be written, with room for all packages",
            next_step="Make room in it, or name another one: TMPDIR=<folder>.",
        ) from refused


def _built(recipe: Recipe, run: Run) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, _ROOT)
        packages = folder / "site-packages"
        _install(recipe, packages, Path(scratch), run)
        _check(packages, recipe)
        shutil.rmtree(packages / "bin", ignore_errors=True)  # scripts with the address of a Python of this machine
        (folder / "bin").mkdir()
        (folder / "bin" / "python").write_text(_PYTHON.format(version=recipe.python), encoding="utf-8")
        (folder / "bin" / "python").chmod(0o755)
        return _packed(folder)


def _check(packages: Path, recipe: Recipe) -> None:
    """ConfigError for what is the image's own, and for what was compiled for this machine from its source."""
    for name in LEFT_TO_THE_IMAGE:
        if any(packages.glob(f"{name}*")):
            raise ConfigError(
                "environment",
                found=f"the package {name}",
                expected="packages that the cluster does not bring itself",
                next_step="Take out what needs it: `uv pip tree --invert` in .venv says what does.",
            )
    for file in sorted(packages.glob("*.dist-info/WHEEL")):
        tags = re.findall(r"^Tag: (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        if not any(_runs_on(tag, recipe.python) for tag in tags):
            raise ConfigError(
                file.parent.name.removesuffix(".dist-info"),
                found=f"a wheel for {', '.join(tags) or 'nothing'}",
                expected=f"one for Python {recipe.python} on {PLATFORM}",
                next_step="Take a version that has such a wheel, or leave out the extra that needs it.",
            )


def _runs_on(tag: str, python: str) -> bool:
    """By the tag's Python, ABI and platform; older ABIs of CPython's stable kind run on newer Pythons."""
    interpreter, abi, platform = tag.split("-")
    wanted = f"cp{python.replace('.', '')}"
    is_python = interpreter in (wanted, "py3") or (abi == "abi3" and interpreter.startswith("cp3"))
    found = re.fullmatch(r"manylinux_2_(\d+)_x86_64", platform)
    is_old_enough = found is not None and int(found[1]) <= int(PLATFORM.rpartition("_")[2])
    return is_python and (platform in ("any", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64")
                          or is_old_enough)  # fmt: skip


def _install(recipe: Recipe, target: Path, scratch: Path, run: Run) -> None:
    """By uv, which builds what has only a source; else by pip, as some machines' indexes only pip knows."""
    requirements, constraints = scratch / "requirements.txt", scratch / "constraints.txt"
    requirements.write_text("\n".join(recipe.requirements), encoding="utf-8")
    constraints.write_text(recipe.constraints, encoding="utf-8")
    given = ["--target", str(target), "--requirement", str(requirements), "--constraint", str(constraints)]
    given += ["--python-version", recipe.python]
    uv = [sys.executable, "-m", "uv", "--system-certs", "pip", "install", "--python-platform", PLATFORM, "--no-config"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--only-binary", ":all:"]
    pip += _pip_platforms()
    said = []
    for command in (uv, pip):
        done = run([*command, *given])
        if done.returncode == 0:
            return
        shutil.rmtree(target, ignore_errors=True)
        said.append(" ".join(done.stderr.split())[-300:])
    raise ConfigError(
        f"packages for Python {recipe.python} on {PLATFORM}",
        found=" / ".join(said),
        expected="a wheel of each in the package index",
        next_step="Check that the index can be reached and has it; `dataproc.extras` leaves out what is not needed.",
    )


def _pip_platforms() -> list[str]:
    newest = int(PLATFORM.rpartition("_")[2])
    names = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 16, -1)] + ["manylinux2014_x86_64"]
    return [word for name in names for word in ("--platform", name)]


def _packed(folder: Path) -> bytes:
    """A tar.gz of what is in the folder, without times and owners."""
    made = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=made, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for file in _files(folder):
            archive.add(file, str(file.relative_to(folder)), recursive=False, filter=_anonymous)
    return made.getvalue()


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        if (path.is_file() or path.is_symlink()) and "__pycache__" not in path.parts:
            yield path


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def size_text(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:,.0f} MiB"


def distributions(archive: bytes) -> list[str]:
    """Names of the packages in an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        names = {re.match(r"site-packages/([^/]+)-[^/-]+\.dist-info/METADATA$", each) for each in found.getnames()}
    return sorted(each[1] for each in names if each)
