"""The spool: what `put` returns for is on disk for good, and what it raises for leaves nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import TryAgain
from appliance.spool.store import Spool
from tests.support.running import ENVIRONMENT


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_lies_where_its_key_says(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    key = spool.put((b"head", b"", b"body"))
    assert spool.path(key) == tmp_path / "spool" / key[:2] / f"{key}.dcm"
    assert spool.path(key).read_bytes() == b"headbody"
    assert files_in(tmp_path) == [spool.path(key)]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=2000), max_size=4), max_size=4))
def test_contents_come_back_and_never_share_a_file(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]]
) -> None:
    root = tmp_path_factory.mktemp("spool")
    spool = Spool(root)
    keys = [spool.put(parts) for parts in contents]
    assert len(set(keys)) == len(keys)
    again = Spool(root)
    assert set(again.stored_keys()) == set(keys)
    for key, parts in zip(keys, contents, strict=True):
        assert again.path(key).read_bytes() == b"".join(parts)


def test_file_and_folder_are_synced_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    key = spool.put((b"content",))
    assert synced == [tmp_path / "incoming" / f"{key}.part", tmp_path / key[:2]]


@pytest.mark.parametrize("failing_sync", [1, 2], ids=["file", "folder"])
def test_a_sync_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_sync: int
) -> None:
    spool = Spool(tmp_path)
    calls = 0

    def fails(_descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(TryAgain, match="Input/output error") as raised:
        spool.put((b"content",))
    assert isinstance(raised.value.__cause__, OSError)
    assert files_in(tmp_path) == []


def test_a_write_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """The file size limit stops the write in the middle, as a full disk does."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from appliance.domain.errors import TryAgain\n"
        "from appliance.spool.store import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    spool.put((b'a' * 60_000, b'b' * 60_000))\n"
        "except TryAgain as error:\n"
        "    print(error)\n"
        "spool.put((b'small',))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert [path.read_bytes() for path in files_in(tmp_path)] == [b"small"]


def test_what_a_dead_process_had_not_finished_is_cleared(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    key = spool.put((b"finished",))
    (tmp_path / "incoming" / "half.part").write_bytes(b"ha")
    assert set(spool.stored_keys()) == {key}
    assert spool.clear_unfinished() == 1
    assert spool.clear_unfinished() == 0
    assert files_in(tmp_path) == [spool.path(key)]


def test_removing_is_idempotent(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    key = spool.put((b"content",))
    spool.remove(key)
    spool.remove(key)
    assert files_in(tmp_path) == []


def test_free_space_is_that_of_the_file_system(tmp_path: Path) -> None:
    assert 0 < Spool(tmp_path).free_bytes() < 2**60
