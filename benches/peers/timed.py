"""What the peers in Python share: their arguments and their JSON line, which are those of the Rust peers (peers/timing)."""

import json
import sys
import time

import numpy as np


def kilobytes(name):
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def arguments():
    """The file, and the options by name; `--ids` as a list of numbers."""
    file, *rest = sys.argv[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    return file, given | {"--ids": [int(i) for i in given["--ids"].split(",")]}


def report(peer, version, bare, given, load):
    """Loads and runs a peer and prints its line. `load` gives a function that computes the output once. `bare` was resident before the
    peer's library was imported; `baseline_rss` is taken after that: what Python itself needs is not the engine's."""
    baseline = kilobytes("VmRSS:")
    start = time.perf_counter()
    compute = load()
    load_ms = (time.perf_counter() - start) * 1e3

    def run():
        start = time.perf_counter()
        value = compute()
        return (time.perf_counter() - start) * 1e3, value

    first_ms, value = run()
    for _ in range(int(given["--warmup"])):
        run()
    ms = [run()[0] for _ in range(int(given["--runs"]))]
    if "--output" in given:
        np.asarray(value).astype("<f4").tofile(given["--output"])
    line = {"peer": peer, "version": version, "load_ms": load_ms, "first_ms": first_ms, "ms": ms}
    line |= {"bare_rss": bare, "baseline_rss": baseline, "rss": kilobytes("VmRSS:"), "peak_rss": kilobytes("VmHWM:")}
    print(json.dumps(line))
