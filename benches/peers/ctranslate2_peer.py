"""CTranslate2 on a folder of ctranslate2_model.py, with the same arguments and the same JSON line as the Rust peers (peers/timing).

As many threads as THREADS says, in the number format of the file.
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
import ctranslate2  # noqa: E402


def main():
    file, *rest = sys.argv[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    ids = [int(i) for i in given["--ids"].split(",")]
    baseline = kilobytes("VmRSS:")
    start = time.perf_counter()
    model = ctranslate2.Encoder(file, compute_type="default", intra_threads=int(os.environ.get("THREADS", 1)), inter_threads=1)
    load_ms = (time.perf_counter() - start) * 1e3

    def run():
        start = time.perf_counter()
        value = np.array(model.forward_batch([ids], token_type_ids=[[0] * len(ids)]).last_hidden_state)
        return (time.perf_counter() - start) * 1e3, value

    first_ms, value = run()
    for _ in range(int(given["--warmup"])):
        run()
    ms = [run()[0] for _ in range(int(given["--runs"]))]
    if "--output" in given:
        value.astype("<f4").tofile(given["--output"])
    line = {"peer": "CTranslate2", "version": ctranslate2.__version__, "load_ms": load_ms, "first_ms": first_ms, "ms": ms}
    line |= {"bare_rss": BARE, "baseline_rss": baseline, "rss": kilobytes("VmRSS:"), "peak_rss": kilobytes("VmHWM:")}
    print(json.dumps(line))


main()
