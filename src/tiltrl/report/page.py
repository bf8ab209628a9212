"""Sections as one HTML page that needs nothing else: its template escapes all text, pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from tiltrl.errors import InputError
from tiltrl.report.parts import Picture, Section, Table, shown


def page(sections: Sequence[Section], compared: Sequence[Table], pictures: Sequence[Picture], version: str) -> str:
    """The page.

    Args:
        sections: one a folder.
        compared: tables that stand before them.
        pictures: of the same.
        version: of TiltRL, which made it.

    Raises:
        InputError: the library for templates is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # of an extra, and only needed here
    except ImportError as error:
        raise InputError("a page needs Jinja2: `pip install 'tiltrl[experiments]'`") from error
    library = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    library.filters |= {"shown": shown, "data_uri": data_uri}
    return library.get_template("page.html").render(
        sections=sections, compared=compared, pictures=pictures, version=version
    )


def data_uri(picture: Picture) -> str:
    """The picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
