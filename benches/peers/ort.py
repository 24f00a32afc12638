"""ONNX Runtime on an ONNX file, with the same arguments and the same JSON line as the Rust peers (peers/timing).

As many threads as THREADS says, all graph optimisations. `baseline_rss` is taken after the imports: what Python itself needs is not
the engine's. `bare_rss` is taken before onnxruntime's own, which is its library.
"""

import json
import os
import sys
import time

import numpy as np


def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


BARE = kilobytes("VmRSS:")
import onnxruntime as ort  # noqa: E402


def main():
    file, *rest = sys.argv[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    ids = np.array([[int(i) for i in given["--ids"].split(",")]], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ.get("THREADS", 1)), 1
    options.log_severity_level = 3
    baseline = kilobytes("VmRSS:")
    start = time.perf_counter()
    session = ort.InferenceSession(file, options, ["CPUExecutionProvider"])
    load_ms = (time.perf_counter() - start) * 1e3
    output = session.get_outputs()[0].name
    feeds = {i.name: feeds[i.name] for i in session.get_inputs()}

    def run():
        start = time.perf_counter()
        value = session.run([output], feeds)[0]
        return (time.perf_counter() - start) * 1e3, value

    first_ms, value = run()
    for _ in range(int(given["--warmup"])):
        run()
    ms = [run()[0] for _ in range(int(given["--runs"]))]
    if "--output" in given:
        value.astype("<f4").tofile(given["--output"])
    line = {"peer": "onnxruntime", "version": ort.__version__, "load_ms": load_ms, "first_ms": first_ms, "ms": ms}
    line |= {"bare_rss": BARE, "baseline_rss": baseline, "rss": kilobytes("VmRSS:"), "peak_rss": kilobytes("VmHWM:")}
    print(json.dumps(line))


main()
