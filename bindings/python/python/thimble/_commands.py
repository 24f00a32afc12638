"""Commands of the program as functions. Each gives what the command prints with --json, as a dict."""

import json
import logging
import os
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from . import _thimble
from ._errors import Refused

Path = Union[str, "os.PathLike[str]"]
Size = Union[int, str]
Progress = Callable[[str, int, int], object]

_log = logging.getLogger("thimble")


def _told(is_warning: bool, text: str) -> None:
    if is_warning:
        warnings.warn(text[len("warning: ") :] if text.startswith("warning: ") else text, stacklevel=4)
    else:
        _log.info(text[len("note: ") :] if text.startswith("note: ") else text)


def _flag(name: str, value: Any) -> List[str]:
    """An option as the command line has it; nothing for what was not given."""
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, (str, os.PathLike)):
        return [f"{option}={os.fspath(value)}"]
    if isinstance(value, (int, float)):
        return [f"{option}={value}"]
    items = [str(item) for item in value]
    for item in items:
        if "," in item:
            raise ValueError(f"{name} has {item!r}; a comma parts the values of a list")
    return [f"{option}={','.join(items)}"] if items else []


def _run(name: str, files: Sequence[Path], options: Dict[str, Any], progress: Optional[Progress] = None) -> Dict[str, Any]:
    arguments = [name, "--json"]
    for option, value in options.items():
        arguments += _flag(option, value)
    arguments += ["--", *(os.fspath(file) for file in files)]
    _, text = _thimble.run_command([os.fsencode(argument) for argument in arguments], _told, progress)
    answer: Dict[str, Any] = json.loads(text)
    return answer


def export(
    source: Path,
    output: Path,
    *,
    precision: Optional[str] = None,
    attention: Optional[str] = None,
    opset: Optional[int] = None,
    seq: Optional[int] = None,
    runtime: Optional[str] = None,
    head: Optional[str] = None,
    adapter: Optional[Path] = None,
    output_value: Optional[Sequence[str]] = None,
    tokenizer: Optional[Path] = None,
    dequantize: bool = False,
) -> Dict[str, Any]:
    """Converts a checkpoint or another tool's ONNX to one ONNX file in one number format, such as "int8".

    The answer has "model" and "tokenizer", each with "file" and "bytes". `runtime` is the option --for; the other arguments are
    those of `thimble export --help`.
    """
    options = {
        "output": output,
        "precision": precision,
        "attention": attention,
        "opset": opset,
        "seq": seq,
        "for": runtime,
        "head": head,
        "adapter": adapter,
        "output_value": output_value,
        "tokenizer": tokenizer,
        "dequantize": dequantize,
    }
    return _run("export", [source], options)


def shrink(
    source: Path,
    output: Optional[Path] = None,
    *,
    budget: Optional[Size] = None,
    calibrate: Optional[Path] = None,
    rows: Optional[int] = None,
    min_agreement: Optional[float] = None,
    max_ram: Optional[Size] = None,
    max_latency: Optional[float] = None,
    objective: Optional[str] = None,
    nearest: bool = False,
    prepare: Optional[Sequence[str]] = None,
    prefer: Optional[str] = None,
    attention: Optional[str] = None,
    formats: Optional[Sequence[str]] = None,
    target: Optional[str] = None,
    dry_run: bool = False,
    frontier: bool = False,
    points: Optional[int] = None,
    baseline: bool = False,
    svg: Optional[Path] = None,
    html: Optional[Path] = None,
    drop_pooler: bool = False,
    max_seq: Optional[int] = None,
    vocab_from: Optional[Path] = None,
    opset: Optional[int] = None,
    seq: Optional[int] = None,
    runtime: Optional[str] = None,
    text_column: Optional[Sequence[str]] = None,
    label_column: Optional[str] = None,
    form: Optional[str] = None,
    head: Optional[str] = None,
    adapter: Optional[Path] = None,
    output_value: Optional[Sequence[str]] = None,
    tokenizer: Optional[Path] = None,
    dequantize: bool = False,
    progress: Optional[Progress] = None,
) -> Dict[str, Any]:
    """Chooses number formats so that the file fits a byte budget with the least measured loss, and writes it.

    budget: bytes, or a text such as "12MiB" (1024²) or "12MB" (1000²).
    calibrate: a file of inputs that the loss is measured on.
    progress: is called with the stage, and how many of its steps are done. An exception in it ends the work.

    Ctrl-C ends the work with KeyboardInterrupt; no file is left half written. Where no file keeps to the limits, none is written and
    `thimble.Refused` is raised. `runtime` is the option --for; the other arguments are those of `thimble shrink --help`.
    """
    options = {
        "output": output,
        "budget": budget,
        "calibrate": calibrate,
        "rows": rows,
        "min_agreement": min_agreement,
        "max_ram": max_ram,
        "max_latency": max_latency,
        "objective": objective,
        "nearest": nearest,
        "prepare": prepare,
        "prefer": prefer,
        "attention": attention,
        "formats": formats,
        "target": target,
        "dry_run": dry_run,
        "frontier": frontier,
        "points": points,
        "baseline": baseline,
        "svg": svg,
        "html": html,
        "drop_pooler": drop_pooler,
        "max_seq": max_seq,
        "vocab_from": vocab_from,
        "opset": opset,
        "seq": seq,
        "for": runtime,
        "text_column": [text_column] if isinstance(text_column, str) else text_column,
        "label_column": label_column,
        "form": form,
        "head": head,
        "adapter": adapter,
        "output_value": output_value,
        "tokenizer": tokenizer,
        "dequantize": dequantize,
    }
    answer = _run("shrink", [source], options, progress)
    if output is not None and not dry_run and not answer["written"]:
        raise Refused(f"{os.fspath(output)} was not written: {_reasons(answer)}", answer)
    return answer


def _reasons(answer: Dict[str, Any]) -> str:
    if answer.get("reasons"):
        return "; ".join(answer["reasons"])
    return f"the budget of {answer['budget']} bytes is below {answer['floor']}, the smallest file in these formats"


def verify(
    reference: Path,
    candidate: Path,
    *,
    inputs: Optional[Path] = None,
    rows: Optional[int] = None,
    min_agreement: Optional[float] = None,
    max_abs: Optional[float] = None,
    ignore_labels: bool = False,
    text_column: Optional[Sequence[str]] = None,
    label_column: Optional[str] = None,
    form: Optional[str] = None,
    head: Optional[str] = None,
    adapter: Optional[Path] = None,
    output_value: Optional[Sequence[str]] = None,
    tokenizer: Optional[Path] = None,
    dequantize: bool = False,
    progress: Optional[Progress] = None,
) -> Dict[str, Any]:
    """Measures how far the outputs of two models differ, on the same inputs.

    The answer's "reasons" say which of the limits do not hold; they are empty where all do.
    """
    options = {
        "inputs": inputs,
        "rows": rows,
        "min_agreement": min_agreement,
        "max_abs": max_abs,
        "ignore_labels": ignore_labels,
        "text_column": [text_column] if isinstance(text_column, str) else text_column,
        "label_column": label_column,
        "form": form,
        "head": head,
        "adapter": adapter,
        "output_value": output_value,
        "tokenizer": tokenizer,
        "dequantize": dequantize,
    }
    return _run("verify", [reference, candidate], options, progress)


def inspect(file: Path, *, against: Optional[Path] = None, html: Optional[Path] = None) -> Dict[str, Any]:
    """Shows where the bytes of an ONNX file are; a thimble file whose nodes and metadata contradict each other is an error."""
    return _run("inspect", [file], {"against": against, "html": html})
