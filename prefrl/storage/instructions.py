"""What people should know beyond the question: sentences, or a file of them."""

from __future__ import annotations

from pathlib import Path

from prefrl.errors import UserError, check_plain
from prefrl.storage.files import reading

LONGEST_NAME = 255
OF_TEXT = {".txt", ".md"}


def read_instructions(given: str) -> str:
    """Return sentences as they are given, or those of the file that is named instead.

    Raises:
        UserError: a file is meant that is not there, cannot be read, or holds nothing.
    """
    if "\n" in given or not 0 < len(given) <= LONGEST_NAME:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        if path.suffix.lower() in OF_TEXT and " " not in given:
            raise UserError(
                f"--instructions is {given!r}, which is no file here; expected a file of "
                "sentences, one a line, or the sentences themselves"
            )
        return given
    with reading(path) as lines:
        text = "\n".join(line.strip() for line in lines if line.strip())
    if not text:
        raise UserError(f"{path} holds no sentence; expected one a line")
    check_plain(f"what {path.name} says", text)
    return text
