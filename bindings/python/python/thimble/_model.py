"""A model that is open: texts or token ids in, answers or tensors out."""

import json
import operator
import os
import warnings
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union, overload

import numpy as np
import numpy.typing as npt

from . import _thimble
from ._errors import InputError

Path = Union[str, "os.PathLike[str]"]
Answer = Dict[str, Any]


def load(
    path: Path,
    *,
    threads: Optional[int] = None,
    copy: bool = False,
    tokenizer: Optional[Path] = None,
) -> "Model":
    """Opens a file that `export` or `shrink` wrote.

    threads: how many to compute on; as many as there are physical cores where left out.
    copy: read the file into memory. Otherwise it is mapped, and nobody may cut it short while the model is open.
    tokenizer: a tokenizer.json in place of the one beside the model.
    """
    return Model(path, threads=threads, copy=copy, tokenizer=tokenizer)


def _integers(name: str, values: Any) -> "npt.NDArray[np.int64]":
    array = np.asarray(values)
    if array.size == 0 and array.dtype.kind == "f":
        # An empty list has no type of its own.
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} are {array.dtype}, whole numbers are needed")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{name} has {int(array.max())}, more than 64 bits with a sign hold")
    return np.ascontiguousarray(array, dtype=np.int64)


def _numbers(values: Any) -> List[int]:
    return [operator.index(value) for value in values]


def _is_row(values: Any) -> bool:
    """Whether `values` are several sequences, and not the numbers of one."""
    return len(values) > 0 and hasattr(values[0], "__len__")


class Model:
    """A model file that is open. Threads may share it; `close` it, or use it in a `with`. It cannot be pickled."""

    def __init__(
        self,
        path: Path,
        *,
        threads: Optional[int] = None,
        copy: bool = False,
        tokenizer: Optional[Path] = None,
    ) -> None:
        named = None if tokenizer is None else os.fsencode(tokenizer)
        self._model = _thimble.Model(os.fsencode(path), threads, copy, named)
        self._facts: Dict[str, Any] = json.loads(self._model.describe())
        for note in self._model.notes():
            warnings.warn(note.split(": ", 1)[-1], stacklevel=3)

    @property
    def file(self) -> str:
        """The path it was opened by."""
        return str(self._facts["file"])

    @property
    def head(self) -> str:
        """What it answers, such as "sequence classification"."""
        return str(self._facts["head"])

    @property
    def labels(self) -> List[str]:
        """The classes of a classifier; empty for other heads."""
        return list(self._facts["labels"])

    @property
    def positions(self) -> int:
        """Most tokens of a sequence."""
        return int(self._facts["positions"])

    @property
    def vocabulary(self) -> int:
        """Rows of the vocabulary; ids are below it."""
        return int(self._facts["vocabulary"])

    @property
    def outputs(self) -> List[str]:
        """Names of the outputs that `run` gives."""
        return list(self._facts["outputs"])

    @property
    def takes_text(self) -> bool:
        """Whether there is a tokenizer; without one the model takes token ids only."""
        return bool(self._facts["text"])

    @property
    def threads(self) -> int:
        """Threads it computes on."""
        return int(self._facts["threads"])

    @property
    def formats(self) -> Dict[str, str]:
        """The number format of each group of weights."""
        return dict(self._facts["formats"])

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._model.closed

    @overload
    def __call__(self, text: str, pair: Optional[str] = None, **options: Any) -> Answer: ...
    @overload
    def __call__(
        self, text: Sequence[str], pair: Optional[Sequence[Optional[str]]] = None, **options: Any
    ) -> List[Answer]: ...
    @overload
    def __call__(self, *, ids: Any = None, types: Any = None, **options: Any) -> Any: ...
    def __call__(
        self,
        text: Union[str, Sequence[str], None] = None,
        pair: Union[str, Sequence[Optional[str]], None] = None,
        *,
        ids: Any = None,
        types: Any = None,
        choices: Any = None,
        **options: Any,
    ) -> Union[Answer, List[Answer]]:
        """Answers a text (and its pair), a list of texts, or token ids.

        The answer is a dict with the fields that docs/serve.md lists, without "id" and "ms"; a list of texts, or `ids` of several
        sequences, gives a list of them. For question answering the text is the question and the pair the context; for multiple
        choice `choices` are texts, or lists of ids.

        Options: at, top, full, max_answer, no_answer, as docs/serve.md describes them.
        """
        single, requests = self._requests(text, pair, ids, types, choices, options)
        answers = [json.loads(answer) for answer in self._model.answers(requests)]
        return answers[0] if single else answers

    def embed(self, texts: Union[str, Sequence[str]]) -> "npt.NDArray[np.float32]":
        """The sentence embeddings of texts: an array [texts, size], or [size] for one text."""
        single, requests = self._requests(texts, None, None, None, None, {})
        size, numbers = self._model.embeddings(requests)
        rows = np.frombuffer(numbers, dtype=np.float32).reshape(len(requests), size)
        return rows[0] if single else rows

    def run(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
    ) -> "Dict[str, npt.NDArray[np.float32]]":
        """The outputs of token ids, by Hugging Face's names.

        Inputs are arrays or nested lists of whole numbers [batch, seq], or [batch, choices, seq] for multiple choice. The mask is 1
        for tokens and 0 for padding. Numbers at padded positions are unspecified.
        """
        ids = _integers("input_ids", input_ids)
        parts: List[Optional[bytes]] = []
        for name, given in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if given is None:
                parts.append(None)
                continue
            values = _integers(name, given)
            if values.shape != ids.shape:
                raise InputError(f"{name} has shape {list(values.shape)}, input_ids {list(ids.shape)}")
            parts.append(values.tobytes())
        outputs = self._model.run(list(ids.shape), ids.tobytes(), parts[0], parts[1])
        return {name: np.frombuffer(numbers, dtype=np.float32).reshape(shape) for name, shape, numbers in outputs}

    def _requests(
        self, text: Any, pair: Any, ids: Any, types: Any, choices: Any, options: Dict[str, Any]
    ) -> Tuple[bool, List[str]]:
        """Whether one answer is asked for, and the requests."""
        for name in options:
            if name not in ("at", "top", "full", "max_answer", "no_answer"):
                raise TypeError(f"there is no option {name!r}; there is at, top, full, max_answer and no_answer")
        shared = {name: value for name, value in options.items() if value is not None}
        if "at" in shared:
            shared["at"] = _numbers(shared["at"])
        for name in ("top", "max_answer"):
            if name in shared:
                shared[name] = operator.index(shared[name])
        if choices is not None:
            shared["choices"] = [choice if isinstance(choice, str) else _numbers(choice) for choice in choices]
        if text is not None and ids is not None:
            raise TypeError("a text and ids are both given; give one")
        if text is not None:
            if types is not None:
                raise TypeError("types go with ids; those of a text are its tokenizer's")
            if isinstance(text, str):
                fields = {"text": text, "pair": pair} if pair is not None else {"text": text}
                return True, [self._json({**fields, **shared})]
            texts = list(text)
            pairs: List[Any] = [None] * len(texts) if pair is None else list(pair)
            if isinstance(pair, str) or len(pairs) != len(texts):
                raise ValueError("with a list of texts, pair is a list of as many")
            rows = [{"text": one} if other is None else {"text": one, "pair": other} for one, other in zip(texts, pairs)]
            return False, [self._json({**row, **shared}) for row in rows]
        if pair is not None:
            raise TypeError("a pair goes with a text")
        if ids is None and choices is None:
            raise TypeError("give a text, or ids")
        if ids is None:
            rows_of = {} if types is None else {"types": [_numbers(row) for row in types]}
            return True, [self._json({**rows_of, **shared})]
        if not _is_row(ids):
            kinds = {} if types is None else {"types": _numbers(types)}
            return True, [self._json({"ids": _numbers(ids), **kinds, **shared})]
        several: List[Dict[str, Any]] = [{"ids": _numbers(row)} for row in ids]
        if types is not None:
            if len(types) != len(several):
                raise ValueError(f"types has {len(types)} rows, ids {len(several)}")
            several = [{**row, "types": _numbers(kind)} for row, kind in zip(several, types)]
        return False, [self._json({**row, **shared}) for row in several]

    @staticmethod
    def _json(fields: Dict[str, Any]) -> str:
        for name in ("text", "pair"):
            if not isinstance(fields.get(name, ""), str):
                raise TypeError(f"{name} is {type(fields[name]).__name__}, a str is needed")
        # Lone surrogates are no text: they are told as UnicodeEncodeError where the string goes out.
        return json.dumps(fields, ensure_ascii=False)

    def close(self) -> None:
        """Lets go of the file. Calls on other threads end first."""
        self._model.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return self._model.__reduce__()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.head}, {self._facts['bytes']} bytes"
        return f"<thimble.Model {self.file!r}: {state}>"
