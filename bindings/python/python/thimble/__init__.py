"""thimble fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss.

    import thimble

    thimble.shrink("albert-base-v2", "small.onnx", budget="12MiB", calibrate="rows.jsonl")
    model = thimble.load("small.onnx")
    print(model("small boards need small models"))

`load` opens a file that thimble wrote. `export`, `shrink`, `verify` and `inspect` are the commands of the program of the same names.
"""

from ._commands import export, inspect, shrink, verify
from ._errors import Error, InputError, NotFoundError, Refused
from ._model import Model, load
from ._thimble import __version__

__all__ = [
    "Error",
    "InputError",
    "Model",
    "NotFoundError",
    "Refused",
    "__version__",
    "export",
    "inspect",
    "load",
    "shrink",
    "verify",
]
