"""Messages of errors, with ``{created}`` in the place of the closing sentence that names the line of the call."""

from collections.abc import Callable
from pathlib import Path

import pytest

Cases = dict[str, tuple[Callable[[], object], type[Exception], str]]
"""By id: a call that stands on one line, what it raises, and the words."""


def message_of(call: Callable[[], object], kind: type[Exception], *, line_before: int = 0) -> str:
    """Return what a call says when it raises exactly this kind of error.

    Args:
        call: a function that stands on one line.
        kind: the class, and no other one derived from it.
        line_before: how many lines before the call the element was made that the message names.
    """
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    code = call.__code__
    created = f"Created at {Path(code.co_filename).name}:{code.co_firstlineno - line_before}."
    return str(caught.value).replace(created, "{created}")
