"""`tiltrl report` at the command line."""

import sys
from pathlib import Path

import pytest

from tiltrl import cli
from tiltrl.errors import InputError
from tiltrl.files import write_json
from tiltrl.runs import FORMAT


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tiltrl", "report", *words])
    cli.main()


def test_it_says_where_the_page_is_and_what_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_json("a/run.json", {"format": FORMAT, "dataset": "toy"})
    call(monkeypatch, "a")
    assert capsys.readouterr().out == "page     a/report.html\nfiles    a/report-files\n"
    assert Path("a/report.html").is_file() and Path("a/report-files/stages.csv").is_file()
    call(monkeypatch, "a", "--out", "b/c.html")
    assert Path("b/c.html").read_bytes() == Path("a/report.html").read_bytes()


def test_a_mistake_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="is neither a run's folder"):
        call(monkeypatch, str(tmp_path))
    with pytest.raises(InputError, match="give 1 to 50"):
        call(monkeypatch)


def test_a_missing_library_is_told_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(tmp_path / "run.json", {"format": FORMAT, "dataset": "toy"})
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"pip install 'tiltrl\[experiments\]'"):
        call(monkeypatch, str(tmp_path))
