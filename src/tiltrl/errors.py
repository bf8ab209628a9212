"""The one exception for bad input.

Everything a user can get wrong raises `InputError` with a sentence that names the file, the field, the value and what
would be right. The command line prints that sentence alone and exits with status 2; any other exception is our bug.
"""

from __future__ import annotations


class InputError(ValueError):
    """The input cannot be used; the message says which, where, and what would be right."""
