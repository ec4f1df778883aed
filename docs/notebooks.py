"""Runs the notebooks on the lake that `make demo` left, and keeps what they show, without paths of this machine.

make demo && make notebooks
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HOUSE = Path(__file__).parent.parent
NOTEBOOKS = sorted((HOUSE / "notebooks").glob("*.ipynb"))
PATIENCE_SECONDS = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_COLOURS_OF_A_CHART = 32
_FOLDERS = re.compile(rf"{re.escape(str(HOUSE))}/|/(?:tmp|dev/shm)/first-topic-\w+/?")


def executed(file: Path) -> Any:
    """The notebook with the outputs of a run from a clean kernel."""
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=PATIENCE_SECONDS, resources={"metadata": {"path": str(file.parent)}})
    client.execute()
    return notebook


def kept(notebook: Any) -> Any:
    """Without what differs from run to run and from machine to machine: paths, times of execution."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            _without_paths(output)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def _small(picture: str) -> str:
    """A chart has few colours: kept as such it takes a fifth."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    out = io.BytesIO()
    image.convert("RGB").quantize(_COLOURS_OF_A_CHART).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def _without_paths(output: Any) -> None:
    if "text" in output:
        output.text = _FOLDERS.sub("", _COLOURS.sub("", output.text))
    for kind, content in output.get("data", {}).items():
        if kind == "image/png":
            output.data[kind] = _small(content)
        elif isinstance(content, str):
            output.data[kind] = _FOLDERS.sub("", content)


def main() -> int:
    for file in NOTEBOOKS:
        nbformat.write(kept(executed(file)), file)
        print(f"{file.relative_to(HOUSE)}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
