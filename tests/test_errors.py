"""The tree of errors."""

import pickle
import re

import pytest

from devplugin import errors
from devplugin._snapshot import ListTooLong
from devplugin._wire import MalformedMessage


def drawn() -> dict[str, str]:
    """Each error of the docstring's drawing, and the one that it hangs from."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines()[2:]:
        found = re.fullmatch(r"(?P<indent>[│├└─ ]*)(?P<name>\w+)( {2,}\S.*)?", line)
        assert found, line
        path[len(found["indent"]) // 4 :] = [found["name"]]
        parents[found["name"]] = path[-2] if len(path) > 1 else "Exception"
    return parents


def test_the_tree_is_as_drawn() -> None:
    """The docstring is what an author reads first."""
    actual = {
        name: next(base.__name__ for base in getattr(errors, name).__mro__[1:] if base is not ValueError)
        for name in errors.__all__
    }
    assert drawn() == actual


def test_all_errors_are_in_the_public_list() -> None:
    """Whatever is defined there is exported, sorted, and says who must act on it."""
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert errors.__all__ == sorted(defined)
    assert all(getattr(errors, name).__doc__ for name in errors.__all__)


def test_a_wrong_value_is_a_value_error() -> None:
    """Who knows nothing of devplugin catches what Python raises for it."""
    assert issubclass(errors.ConfigurationError, ValueError)


@pytest.mark.parametrize("kind", [*(getattr(errors, name) for name in errors.__all__), ListTooLong, MalformedMessage])
def test_errors_are_sentences(kind: type[Exception]) -> None:
    """The text is the error, between processes too, and every error has the one root."""
    error = pickle.loads(pickle.dumps(kind("what is wrong")))
    assert type(error) is kind
    assert str(error) == "what is wrong"
    assert isinstance(error, errors.DevicePluginError)
