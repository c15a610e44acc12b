import random
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.engine import checksums
from pipeline.errors import UserError

OBJECTS = [b'{"a": 1}', b'{\n  "a": {\n    "b": [1, 2]\n  }\n}\n', b'{"a": "\\"checksum\\": }"}']


@pytest.mark.parametrize("data", OBJECTS)
def test_a_file_is_read_as_it_was_written_and_damage_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    written = checksums.document(data)
    path.write_bytes(written)
    assert b"".join(checksums.read(path).split()) == b"".join(data.split())
    draw = random.Random(1)
    for _ in range(100):
        place, bit = draw.randrange(len(written)), 1 << draw.randrange(8)
        path.write_bytes(written[:place] + bytes([written[place] ^ bit]) + written[place + 1 :])
        with suppress(UserError):
            found = checksums.read(path)  # the flipped bit is in the checksum's name, and all else is whole
            assert found.startswith(data.rstrip().removesuffix(b"}").rstrip())
    path.write_bytes(written.replace(b"a", b"b", 1))
    with pytest.raises(UserError, match=f"{path} is damaged"):
        checksums.read(path)


def test_a_file_without_a_checksum_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(OBJECTS[1])
    assert checksums.read(tmp_path / "x.json") == OBJECTS[1]


def test_a_line_without_its_checksum_is_damaged() -> None:
    line = checksums.line(b'{"a": 1}')
    assert checksums.parse(line) == {"a": 1}
    for damaged in (line[:-1], line.replace(b"1", b"2", 1), b'{"a": 1}\n', b""):
        assert checksums.parse(damaged) is None
