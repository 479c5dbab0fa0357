"""The Redis client's errors as the store's."""

import pytest
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.stores.redis.cluster.errors import CommandError, NoSpace, Unavailable
from jobstatus.stores.redis.errors import ERRORS, raise_first, store_error


def test_every_error_of_a_command_has_a_translation() -> None:
    """A new one must not reach the core untranslated."""
    assert set(ERRORS) == set(CommandError.__subclasses__())


@pytest.mark.parametrize(("error", "expected"), [(Unavailable(), StoreUnavailable), (NoSpace(), StoreFull)])
def test_a_translation_keeps_the_cause(error: CommandError, expected: type[Exception]) -> None:
    """The log says what the server or the system has said."""
    error.__cause__ = OSError("gone")
    translated = store_error(error)
    assert type(translated) is expected
    assert translated.__cause__ is error.__cause__


def test_the_first_error_among_replies_is_raised() -> None:
    """Replies that are none are passed over."""
    with pytest.raises(StoreFull):
        raise_first([b"fine", NoSpace(), Unavailable()])
    raise_first([b"fine", None, 7])
