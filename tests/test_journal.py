"""The journal of a server: whatever was appended is there again, or said to be damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurekit.errors import ConfigError, DatasetError
from featurekit.serve.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = [b"one", b"", b"three" * 1_000, b"\0" * 50]


def written(folder: Path) -> Path:
    journal = Journal(folder)
    journal.rotate(b"begin")
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return folder / "journal-000000"


def read(folder: Path) -> list[bytes]:
    journal = Journal(folder)
    try:
        assert journal.snapshot() == b"begin"
        return list(journal.records())
    finally:
        journal.close()


def test_a_new_directory_has_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    assert journal.snapshot() is None
    assert list(journal.records()) == []
    journal.close()


def test_records_are_there_again_and_more_can_be_added(tmp_path: Path) -> None:
    written(tmp_path)
    assert read(tmp_path) == RECORDS
    journal = Journal(tmp_path)
    list(journal.records())
    journal.append(b"more")
    journal.close()
    assert read(tmp_path) == [*RECORDS, b"more"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_torn_end_loses_only_what_was_not_on_disk(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("state")
    path = written(folder)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + b"\0" * data.draw(st.integers(0, 40)))
    ends, end = [], 0
    for record in RECORDS:
        end += 24 + len(record)
        ends.append(end)
    complete = [r for r, end in zip(RECORDS, ends, strict=True) if end <= cut]
    found = read(folder)  # zeros after a cut may be those that were cut off
    assert found[: len(complete)] == complete
    assert found == RECORDS[: len(found)]
    assert read(folder) == found


def test_pages_of_the_last_record_may_be_lost_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path)
    journal = Journal(tmp_path)
    list(journal.records())
    journal.append(b"x" * 10_000)
    journal.close()
    whole = path.read_bytes()
    begin = len(whole) - 10_024
    for first, last in ((0, 24), (0, 4_096), (3_000, 5_000), (20, 9_000), (9_000, 10_024)):
        lost = bytearray(whole)
        lost[begin + first : begin + last] = bytes(last - first)
        path.write_bytes(lost)
        assert read(tmp_path) == RECORDS


def test_a_journal_that_is_gone_is_told(tmp_path: Path) -> None:
    written(tmp_path).unlink()
    with pytest.raises(DatasetError, match="damaged"):
        read(tmp_path)


@pytest.mark.parametrize("at", [0, 9, 17, 24, 30, 60, 2_000])
@pytest.mark.parametrize("kind", ["journal", "snapshot"])
def test_other_bytes_are_told(tmp_path: Path, at: int, kind: str) -> None:
    written(tmp_path)
    path = tmp_path / f"{kind}-000000"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        read(tmp_path)


def test_one_server_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ConfigError, match="another server uses this state directory"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="this is no state directory"):
        Journal(tmp_path)


def test_a_rotation_that_did_not_end_is_as_if_it_had_not_begun(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / ".snapshot-000001").write_bytes(b"half")
    (tmp_path / "journal-000001").write_bytes(b"left over")
    assert read(tmp_path) == RECORDS
    journal = Journal(tmp_path)
    list(journal.records())
    journal.rotate(b"next")
    journal.append(b"after")
    journal.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".lock", "snapshot-000001", "journal-000001"}
    again = Journal(tmp_path)
    assert (again.snapshot(), list(again.records())) == (b"next", [b"after"])
    again.close()


def test_a_rotation_that_ended_before_the_old_files_went_counts(tmp_path: Path) -> None:
    written(tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.glob("*-000000")}
    journal = Journal(tmp_path)
    list(journal.records())
    journal.rotate(b"next")
    journal.close()
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    again = Journal(tmp_path)
    assert (again.snapshot(), list(again.records())) == (b"next", [])
    again.close()
