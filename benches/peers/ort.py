"""ONNX Runtime on an ONNX file (peers/timed.py has the arguments). As many threads as THREADS says, all graph optimisations."""

import os

import numpy as np
from timed import arguments, kilobytes, report

BARE = kilobytes("VmRSS:")
import onnxruntime as ort  # noqa: E402

file, given = arguments()
ids = np.array([given["--ids"]], dtype=np.int64)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def load():
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ.get("THREADS", 1)), 1
    options.log_severity_level = 3
    session = ort.InferenceSession(file, options, ["CPUExecutionProvider"])
    output, fed = session.get_outputs()[0].name, {i.name: feeds[i.name] for i in session.get_inputs()}
    return lambda: session.run([output], fed)[0]


report("onnxruntime", ort.__version__, BARE, given, load)
