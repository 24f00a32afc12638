"""LiteRT on a graph of litert_graph.py (peers/timed.py has the arguments). XNNPACK runs it, on as many threads as THREADS says. `{}` in
the file's name stands for the number of tokens: shapes are fixed.
"""

import os
from importlib.metadata import version

import numpy as np
from timed import arguments, kilobytes, report

BARE = kilobytes("VmRSS:")
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

file, given = arguments()
ids = np.array([given["--ids"]], dtype=np.int32)
feeds = [ids, np.ones_like(ids), np.zeros_like(ids)]


def load():
    model = Interpreter(file.replace("{}", str(ids.shape[1])), num_threads=int(os.environ.get("THREADS", 1)))
    model.allocate_tensors()
    inputs, output = [i["index"] for i in model.get_input_details()], model.get_output_details()[0]["index"]

    def compute():
        for index, value in zip(inputs, feeds, strict=True):
            model.set_tensor(index, value)
        model.invoke()
        return model.get_tensor(output)

    return compute


report("LiteRT", version("ai-edge-litert"), BARE, given, load)
