"""Downloads: whole and right, or nothing at all on disk."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from server import Answer, Site, serve

from tiltrl import files
from tiltrl.data import download
from tiltrl.data.download import (
    check_hdf5,
    check_hdf5_of,
    check_json,
    check_npz,
    check_npz_of,
    fetch,
    folder_aside,
)
from tiltrl.errors import InputError


def hdf5_bytes() -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file["rewards"] = np.arange(5000.0)
    return memory.getvalue()


def npz_bytes() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, rewards=np.arange(50.0))
    return memory.getvalue()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve({"/good.hdf5": Answer(hdf5_bytes())}) as site:
        yield site


def left(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_downloads_once(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "cache" / "set.hdf5"
    seen: list[tuple[int, int | None]] = []
    for _ in range(2):
        found = fetch(f"{site.url}/good.hdf5", target, check=check_hdf5, on_progress=lambda *at: seen.append(at))
        assert found == target
    assert target.read_bytes() == hdf5_bytes()
    assert site.asked == ["/good.hdf5"]
    assert seen[-1] == (len(hdf5_bytes()), len(hdf5_bytes()))
    assert left(target.parent) == [target]


def test_follows_a_redirect_and_does_without_a_length(site: Site, tmp_path: Path) -> None:
    site.answers["/old.hdf5"] = Answer(status=302, to="/new.hdf5")
    site.answers["/new.hdf5"] = Answer(hdf5_bytes(), says_length=False)
    totals: list[int | None] = []
    target = fetch(
        f"{site.url}/old.hdf5",
        tmp_path / "set.hdf5",
        check=check_hdf5,
        on_progress=lambda _, total: totals.append(total),
    )
    assert target.read_bytes() == hdf5_bytes()
    assert set(totals) == {None}


BAD = {
    "404": (Answer(b"gone", 404), "the server answers 404 Not Found"),
    "403": (Answer(b"no", 403), "the server answers 403 Forbidden"),
    "500": (Answer(b"oops", 500), "the server answers 500"),
    "page": (Answer(b"\n <!DOCTYPE html><html>Log in", kind="text/html"), "what came is a web page, not a data set"),
    "page of another kind": (Answer(b"<HTML><body>Log in"), "what came is a web page"),
    "truncated": (Answer(hdf5_bytes()[:-100], length=len(hdf5_bytes())), r"only \d+ of \d+ bytes came"),
    "truncated at once": (Answer(b"", length=10), "only 0 of 10 bytes came"),
    "truncated without a length": (Answer(hdf5_bytes()[:-100], says_length=False), "what came is no whole HDF5 file"),
    "empty": (Answer(b""), "what came is no whole HDF5 file"),
    "garbage": (Answer(b"garbage" * 100), "what came is no whole HDF5 file"),
    "another format": (Answer(npz_bytes()), "what came is no whole HDF5 file"),
    "stalls": (Answer(b"\x89HDF", length=1000, stalls=True), "the server has stopped answering"),
    "redirect loop": (Answer(status=302, to="/set.hdf5"), "the server answers 302"),
    "redirect to a file": (Answer(status=302, to="file:///etc/hostname"), "the server answers 302"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_answers_leave_nothing_behind(case: str, site: Site, tmp_path: Path) -> None:
    site.answers["/set.hdf5"], message = BAD[case]
    url, target = f"{site.url}/set.hdf5", tmp_path / "deep" / "cache" / "set.hdf5"
    with pytest.raises(InputError, match=message) as caught:
        fetch(url, target, check=check_hdf5, timeout=0.3)
    assert str(caught.value).startswith(url)
    assert str(caught.value).endswith(f"download it by hand and save it as {target}")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:{free}/x", "Connection refused"),
        ("http://name.invalid/x", "cannot be downloaded"),
        ("http://127.0.0.1:notaport/x", "cannot be downloaded"),
        ("http://127.0.0.1/with space\n", "cannot be downloaded"),
        ("file:///etc/hostname", "must begin with http:// or https://"),
        ("rail.example/x.hdf5", "must begin with http:// or https://"),
        ("", "must begin with http:// or https://"),
    ],
)
def test_addresses_that_lead_nowhere(url: str, message: str, site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = url.format(free=free.getsockname()[1])
        with pytest.raises(InputError, match=message):
            fetch(address, tmp_path / "deep" / "set.hdf5", check=check_hdf5, timeout=2)
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing_behind(error: type[BaseException], site: Site, tmp_path: Path) -> None:
    def stop(size: int, total: int | None) -> None:
        raise error

    with pytest.raises(error):
        fetch(f"{site.url}/good.hdf5", tmp_path / "a" / "b" / "set.hdf5", check=check_hdf5, on_progress=stop)
    assert left(tmp_path) == []


def test_what_a_killed_process_left_is_swept_by_the_next_call(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "set.hdf5"
    site.answers["/stalls.hdf5"] = Answer(hdf5_bytes()[:1000], length=5000, stalls=True)
    code = "import sys; from pathlib import Path; from tiltrl.data.download import check_hdf5, fetch; "
    code += "fetch(sys.argv[1], Path(sys.argv[2]), check=check_hdf5, on_progress=lambda *_: print(flush=True))"
    command = [sys.executable, "-c", code, f"{site.url}/stalls.hdf5", str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is in the midst of it
        (running,) = target.parent.iterdir()
        fetch(f"{site.url}/good.hdf5", target, check=check_hdf5)
        assert running.exists()
        process.terminate()
    assert running.exists()
    fetch(f"{site.url}/good.hdf5", target, check=check_hdf5)
    assert left(target.parent) == [target]


def test_only_abandoned_asides_of_the_same_target_are_swept(site: Site, tmp_path: Path) -> None:
    old = time.time() - 2 * files._ABANDONED_SECONDS
    gone, others, foreign = ".0a0a0a0a-1-00000000.set.hdf5", ".0a0a0a0a-1-00000000.other.hdf5", ".12345678.set.hdf5"
    fresh, folder = ".0a0a0a0a-2-00000000.set.hdf5", tmp_path / ".0a0a0a0a-3-00000000.set.hdf5"
    folder.mkdir()
    for path in (*(tmp_path / name for name in (gone, others, foreign, fresh)), folder / "data"):
        path.write_bytes(b"half")
    for path in (*(tmp_path / name for name in (gone, others, foreign)), folder / "data", folder):
        os.utime(path, (old, old))
    fetch(f"{site.url}/good.hdf5", tmp_path / "set.hdf5", check=check_hdf5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([others, foreign, fresh, "set.hdf5"])


def test_what_was_there_stays(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "cache" / "other.hdf5"
    other.parent.mkdir()
    other.write_bytes(b"other")
    with pytest.raises(InputError, match="404"):
        fetch(f"{site.url}/none.hdf5", other.with_name("set.hdf5"), check=check_hdf5)
    assert left(tmp_path) == [other.parent, other]


def test_no_place_to_write(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file, not a folder")
    with pytest.raises(InputError, match=r"set.hdf5: cannot be written: Not a directory|File exists"):
        fetch(f"{site.url}/good.hdf5", tmp_path / "cache" / "set.hdf5", check=check_hdf5)
    assert (tmp_path / "cache").read_bytes() == b"a file, not a folder"


def test_a_name_that_is_too_long(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        fetch(f"{site.url}/good.hdf5", tmp_path / "cache" / ("x" * 300), check=check_hdf5)
    assert left(tmp_path) == []


def test_two_processes_at_once(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "set.hdf5"
    code = "import sys; from pathlib import Path; from tiltrl.data.download import check_hdf5, fetch; "
    code += "fetch(sys.argv[1], Path(sys.argv[2]), check=check_hdf5)"
    both = [subprocess.Popen([sys.executable, "-c", code, f"{site.url}/good.hdf5", str(target)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert target.read_bytes() == hdf5_bytes()
    assert left(tmp_path) == [target.parent, target]


def test_one_that_fails_spares_the_other(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "set.hdf5"
    site.answers["/bad.hdf5"] = Answer(b"garbage")

    def meanwhile(path: Path) -> None:
        fetch(f"{site.url}/good.hdf5", target, check=check_hdf5)
        check_hdf5(path)

    with pytest.raises(InputError, match="no whole HDF5 file"):
        fetch(f"{site.url}/bad.hdf5", target, check=meanwhile)
    assert target.read_bytes() == hdf5_bytes()
    assert left(tmp_path) == [target.parent, target]


def test_progress_is_told_on_standard_error_after_two_seconds(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(f"{site.url}/good.hdf5", tmp_path / "quick.hdf5", check=check_hdf5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(download, "_QUIET_SECONDS", 0.0)
    fetch(f"{site.url}/good.hdf5", tmp_path / "slow.hdf5", check=check_hdf5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "good.hdf5" in err and "of 0.0 MB" in err
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes standard error for a terminal
    fetch(f"{site.url}/good.hdf5", tmp_path / "bar.hdf5", check=check_hdf5)
    bar = capsys.readouterr().err
    assert "\x1b[" in bar and "good.hdf5" in bar and "0:00:00" in bar


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_hdf5, hdf5_bytes(), hdf5_bytes()[:-1]),
        (check_npz, npz_bytes(), npz_bytes()[:-30]),
        (check_npz, npz_bytes(), hdf5_bytes()),
        (check_hdf5_of("rewards"), hdf5_bytes(), hdf5_bytes()[:-1]),
        (check_npz_of("rewards"), npz_bytes(), npz_bytes()[:-30]),
        (check_json, b'{"a": 1}', b'{"a": 1'),
        (check_json, b"{}", b"[]"),
        (check_json, b"{}", b"\xff\xfe"),
        (check_json, b"{}", b"[" * 100_000),
        (check_json, b"{}", b"<html></html>"),
    ],
)
def test_checks(check: Callable[[Path], None], good: bytes, bad: bytes, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "bad").write_bytes(bad)
    check(tmp_path / "good")
    with pytest.raises(InputError) as caught:
        check(tmp_path / "bad")
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "set"
    with pytest.raises(KeyboardInterrupt), folder_aside(target) as aside:
        (aside / "file").write_bytes(b"half")
        raise KeyboardInterrupt
    assert left(tmp_path) == []
    with folder_aside(target) as aside:
        (aside / "file").write_bytes(b"first")
        with folder_aside(target) as second:  # another process, which is done earlier
            (second / "file").write_bytes(b"second")
    assert (target / "file").read_bytes() == b"second"
    assert left(tmp_path) == [target.parent, target, target / "file"]
