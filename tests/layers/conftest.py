"""Error messages, word for word."""

import contextlib
import sys

import pytest


@pytest.fixture
def message():
    """Return a context that expects an error of exactly this text; {line} is the line after the ``with``."""

    @contextlib.contextmanager
    def expect(kind, text):
        line = sys._getframe(2).f_lineno
        with pytest.raises(kind) as found:
            yield
        assert str(found.value) in (text.format(line=line + 1), text.format(line=line))

    return expect
