"""`Lines`, where its file is another one from one moment to the next."""

from pathlib import Path
from typing import BinaryIO, cast

from everlong.streams import Lines


class _Rotated:
    """A path of a file that is rotated behind each time that it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, mode: str) -> BinaryIO:
        assert mode == "rb"
        file = self._path.open("rb")
        fresh = self._path.with_name("fresh")
        fresh.write_text("another file, with a line that is longer\n")
        fresh.replace(self._path)
        return file


async def test_what_is_read_is_the_file_that_was_identified(tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_text("one\ntwo\n")
    source = Lines(file, str)
    reader = await source.open(None, None)
    source.path = cast(Path, _Rotated(file))
    assert [one.value for one in await reader.fetch(10, 10_000, None)] == [b"one", b"two"]
