"""LiteRT on a graph of litert_graph.py, with the same arguments and the same JSON line as the Rust peers (peers/timing).

XNNPACK runs it, on as many threads as THREADS says. `{}` in the file's name stands for the number of tokens: shapes are fixed.
"""

import json
import os
import sys
import time
from importlib.metadata import version

import numpy as np


def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


BARE = kilobytes("VmRSS:")
from ai_edge_litert.interpreter import Interpreter  # noqa: E402


def main():
    file, *rest = sys.argv[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    ids = np.array([[int(i) for i in given["--ids"].split(",")]], dtype=np.int32)
    feeds = [ids, np.ones_like(ids), np.zeros_like(ids)]
    baseline = kilobytes("VmRSS:")
    start = time.perf_counter()
    model = Interpreter(file.replace("{}", str(ids.shape[1])), num_threads=int(os.environ.get("THREADS", 1)))
    model.allocate_tensors()
    load_ms = (time.perf_counter() - start) * 1e3
    inputs, output = [i["index"] for i in model.get_input_details()], model.get_output_details()[0]["index"]

    def run():
        start = time.perf_counter()
        for index, value in zip(inputs, feeds, strict=True):
            model.set_tensor(index, value)
        model.invoke()
        value = model.get_tensor(output)
        return (time.perf_counter() - start) * 1e3, value

    first_ms, value = run()
    for _ in range(int(given["--warmup"])):
        run()
    ms = [run()[0] for _ in range(int(given["--runs"]))]
    if "--output" in given:
        value.astype("<f4").tofile(given["--output"])
    line = {"peer": "LiteRT", "version": version("ai-edge-litert"), "load_ms": load_ms, "first_ms": first_ms, "ms": ms}
    line |= {"bare_rss": BARE, "baseline_rss": baseline, "rss": kilobytes("VmRSS:"), "peak_rss": kilobytes("VmHWM:")}
    print(json.dumps(line))


main()
