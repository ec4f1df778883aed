"""The manual's pictures of commands, as a terminal shows them on the lake that `make demo` left.

make demo && make screenshots
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HOUSE = Path(__file__).parent.parent
PICTURES = HOUSE / "docs" / "pictures"
EVENT = "UA1519-EWR-2013-01-02/departed"
COMMANDS = {
    "status": ("lakehouse status", 80),
    "hours": ("lakehouse hours flight_departed", 80),
    "explain": ("lakehouse explain flight_departed 2013-01-02T15", 100),
    "reconcile": ("lakehouse reconcile flight_departed", 80),
    "trace": (f"lakehouse trace flight_departed {EVENT}", 80),
}
"""File, command, and how many columns its terminal has."""
_LINES = 60


def shown(command: str, columns: int) -> str:
    """What the command writes to a terminal of so many columns, colours and all."""
    words = [sys.executable, "-m", "lakehouse.cli", *shlex.split(command)[1:]]
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.environ.pop("NO_COLOR", None)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # progress, which is gone in the end
        os.execv(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    written = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not part:
            break
        written += part
    os.waitpid(child, 0)
    os.close(terminal)
    return written.decode().replace("\r\n", "\n")


def picture(command: str, columns: int) -> str:
    """The command and what it shows, as one SVG that asks nothing of the network."""
    console = Console(width=columns, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text(f"$ {command}", "bold"))
    console.print(Text.from_ansi(shown(command, columns).replace(f"{HOUSE}/", "").rstrip()), soft_wrap=True)
    svg = console.export_svg(title="", theme=MONOKAI, unique_id="t", font_aspect_ratio=0.61)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace").replace(
        "font-family: Fira Code", "font-family: ui-monospace, Menlo, Consolas"
    )


def main() -> int:
    for name, (command, columns) in COMMANDS.items():
        file = PICTURES / f"{name}.svg"
        file.write_text(picture(command, columns), encoding="utf-8")
        print(f"{file.relative_to(HOUSE)}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
