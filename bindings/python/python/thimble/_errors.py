"""What goes wrong, as exceptions. The message is the program's: one line that names the file, the tensor or the field."""

from typing import Any, Dict


class Error(Exception):
    """The base of all errors of thimble. Wrong arguments are ValueError or TypeError, as elsewhere."""


class NotFoundError(Error, FileNotFoundError):
    """A file is not there."""


class InputError(Error, ValueError):
    """Ids, a text or a shape do not fit the model."""


class Refused(Error):
    """No file within the limits was found, so none was written. `answer` is what the command answers, as a dict."""

    def __init__(self, message: str, answer: Dict[str, Any]) -> None:
        super().__init__(message)
        self.answer = answer


for _class in (Error, NotFoundError, InputError, Refused):
    _class.__module__ = "thimble"
