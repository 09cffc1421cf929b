"""The spool: what `commit` returns for is on disk for good, and nothing else is ever taken for it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import TryAgain
from appliance.spool.store import PREAMBLE_BYTES, Spool
from tests.support.examples import examples
from tests.support.running import ENVIRONMENT


def contents(spool: Spool) -> dict[str, bytes]:
    """Every file with something in it, by key."""
    return {
        path.stem: path.read_bytes()[PREAMBLE_BYTES:]
        for path in spool.root.rglob("*.dcm")
        if path.stat().st_size
    }


def leave(root: Path, script: str) -> None:
    """Run `script`, which has a `spool`, in a process that dies without cleaning up."""
    prelude = "import os, sys; from pathlib import Path; from appliance.spool.store import Spool\n"
    whole = f"{prelude}spool = Spool(Path(sys.argv[1]))\n{script}\nos._exit(0)\n"
    subprocess.run([sys.executable, "-c", whole, root], env=ENVIRONMENT, check=True)


def test_a_file_lies_where_its_key_says(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    key = spool.put((b"head", b"", b"body"))
    assert contents(spool) == {key: b"headbody"}
    assert spool.path(key).is_file()


@settings(max_examples=examples(10), deadline=None)
@given(st.binary(max_size=300), st.lists(st.binary(max_size=2000), max_size=4))
def test_a_finished_file_tells_what_it_holds(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, parts: list[bytes]
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    draft = spool.draft(header)
    for part in parts:
        draft.write(part)
    assert spool.finished(draft.key) is None
    expected = draft.content
    key = draft.commit()
    body = b"".join(parts)
    assert spool.path(key).read_bytes()[PREAMBLE_BYTES:] == header + body
    found = Spool(spool.root).finished(key)
    assert found == expected
    assert found is not None
    assert (found.start, found.size) == (PREAMBLE_BYTES + len(header), len(body))
    assert found.checksum == xxhash.xxh3_128_hexdigest(body)


@settings(max_examples=examples(25), deadline=None)
@given(st.data())
def test_a_damaged_file_is_not_finished(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    draft = spool.draft(b"header")
    draft.write(b"content" * 20)
    key = draft.commit()
    whole = spool.path(key).read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    spool.path(key).write_bytes(whole[:cut])
    assert spool.finished(key) is None
    position = data.draw(st.integers(PREAMBLE_BYTES, len(whole) - 1))
    spool.path(key).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    assert spool.finished(key) is None


def test_the_name_is_synced_before_it_is_used_and_the_file_before_commit_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    for name in ("fsync", "fdatasync"):
        original = getattr(os, name)

        def watched(descriptor: int, original: object = original) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            assert callable(original)
            original(descriptor)

        monkeypatch.setattr(os, name, watched)
    spool = Spool(tmp_path)
    draft = spool.draft()
    path = draft.path
    assert synced == [path.parent, tmp_path]
    draft.write(b"content")
    draft.commit()
    assert synced == [path.parent, tmp_path, path]
    spool.put((b"another",))
    assert len(synced) == 4


def test_durability_os_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_descriptor: int) -> None:
        raise AssertionError("synced")

    monkeypatch.setattr(os, "fsync", forbidden)
    monkeypatch.setattr(os, "fdatasync", forbidden)
    spool = Spool(tmp_path, "os")
    assert spool.finished(spool.put((b"content",)))


def test_a_sync_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)

    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(TryAgain, match="Input/output error") as raised:
        spool.put((b"content",))
    assert isinstance(raised.value.__cause__, OSError)
    assert contents(spool) == {}


def test_a_header_that_does_not_fit_leaves_neither_file_nor_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.put((b"first",))
    before = len(list(Path("/proc/self/fd").iterdir()))

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(TryAgain, match="No space left"):
            spool.draft(b"header")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(contents(spool).values()) == [b"first"]


def test_a_write_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """The file size limit stops the write in the middle, as a full disk does."""
    leave(
        tmp_path,
        "import resource; from appliance.domain.errors import TryAgain\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    spool.put((b'a' * 60_000, b'b' * 60_000))\n"
        "except TryAgain as error:\n"
        "    assert 'cannot be written' in str(error)\n"
        "else:\n"
        "    sys.exit('it fitted')\n"
        "spool.put((b'small',))\n",
    )
    assert list(contents(Spool(tmp_path)).values()) == [b"small"]


def test_what_a_dead_process_left_is_found_and_told_apart(tmp_path: Path) -> None:
    leave(tmp_path, "spool.put((b'finished',)); spool.draft(b'head').write(b'half')")
    spool = Spool(tmp_path)
    left = {key: spool.finished(key) for key in spool.abandoned_keys()}
    assert len(left) > 2  # names that were made ahead, too
    finished = [key for key, content in left.items() if content]
    assert [contents(spool)[key] for key in finished] == [b"finished"]
    for key in spool.abandoned_keys():
        if key not in finished:
            spool.remove(key)
    assert list(contents(spool)) == finished
    spool.remove(finished[0])
    assert list(spool.abandoned_keys()) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    draft = writer.draft()
    assert list(Spool(tmp_path).abandoned_keys()) == []
    assert list(writer.abandoned_keys()) == []
    draft.write(b"content")
    assert writer.finished(draft.commit())


def test_names_are_made_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    made = len(list(tmp_path.rglob("*.dcm")))
    spool.prepare()
    assert len(list(tmp_path.rglob("*.dcm"))) == made
    keys = {spool.put((b"x",)) for _ in range(made + 1)}
    assert len(keys) == made + 1


def test_removing_is_idempotent(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    key = spool.put((b"content",))
    spool.remove(key)
    spool.remove(key)
    assert contents(spool) == {}


def test_free_space_is_that_of_the_file_system(tmp_path: Path) -> None:
    assert 0 < Spool(tmp_path).free_bytes() < 2**60


def test_a_spool_that_has_written_much_holds_few_descriptors(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "os")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(300):
        if number % 2:
            spool.put((b"content",))
        else:
            spool.draft().abandon()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
