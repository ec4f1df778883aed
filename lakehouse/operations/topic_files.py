"""What is wrong with the files of topics, where one of them keeps all from loading."""

from __future__ import annotations

from pathlib import Path

from lakehouse.config import Settings, folder_of, model_of, topic_of, values_of
from lakehouse.errors import ConfigError


def file_complaints(conf: Path, error: ConfigError) -> dict[str, str | None]:
    """What is wrong with each topic's file, after `error` kept them all from loading; None for a sound one.

    Raises `error` again when it is not about the file of a topic.
    """
    folder = folder_of(conf, model_of(Settings, conf, values_of(conf)).topics)
    complaints = {file: _file_complaint(file) for file in sorted(folder.glob("*.yaml"))}
    if not any(complaints.values()):
        between_files = [file for file in complaints if error.subject.startswith(f"{file}:")]
        if not between_files:
            raise error
        complaints |= dict.fromkeys(between_files, str(error))
    return {file.stem: complaint for file, complaint in complaints.items()}


def _file_complaint(file: Path) -> str | None:
    try:
        topic_of(file)
    except ConfigError as error:
        return str(error)
    return None
