"""What thimble's own commands take on the desk: memory by the kernel's word (wait4), in checkpoints, on albert-base's shape. And
what they say where there is not enough of it.
"""

import resource
import subprocess

import pytest

from bench import ROOT

MIB = 1 << 20


@pytest.fixture(scope="module")
def peak(thimble, tmp_path_factory):
    """Runs thimble and gives its peak resident memory in bytes."""
    program = tmp_path_factory.mktemp("peak") / "peak"
    subprocess.run(["cc", "-O1", "-o", program, ROOT / "tests" / "oracle" / "peak.c"], check=True)

    def run(*args):
        done = subprocess.run([program, thimble.host, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        bytes_, seconds = done.stderr.strip().splitlines()[-1].split()
        print(f"{args[0]}: {int(bytes_) / MIB:.1f} MiB, {float(seconds):.1f} s of CPU")
        return int(bytes_)

    return run


@pytest.fixture(scope="module")
def source(models):
    return models.source("albert-base-rand")


def checkpoint_bytes(source):
    return (source / "model.safetensors").stat().st_size


def test_export_takes_the_weights_once(peak, source, tmp_path):
    """The checkpoint's pages go as its weights come in, and the file goes out in pieces."""
    assert peak("export", source, "-o", tmp_path / "32.onnx") <= 1.5 * checkpoint_bytes(source)
    # Whatever the precision: the f32 weights, and the file's own.
    assert peak("export", source, "-o", tmp_path / "8.onnx", "--precision", "int8") <= 1.75 * checkpoint_bytes(source)


def test_inspect_reads_every_number_and_keeps_none(peak, models):
    file = models.export("albert-base-rand", "fp32")
    # Most of it is the program itself as it starts: 14 MB with its commands and their help.
    assert peak("inspect", file) <= 0.36 * file.stat().st_size


@pytest.mark.long
def test_shrink_takes_a_few_checkpoints(peak, source, short_rows, tmp_path):
    shrink = ["shrink", source, "--budget", "12MiB", "--calibrate", short_rows, "-o", tmp_path / "small.onnx"]
    assert peak(*shrink) <= 5 * checkpoint_bytes(source)


def limited(thimble, limit, *args):
    """Runs thimble with an address space of `limit` bytes."""
    limits = lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # noqa: E731
    return subprocess.run([thimble.host, *map(str, args)], capture_output=True, text=True, preexec_fn=limits)


@pytest.mark.parametrize("share, words", [(0.7, "its weights take"), (2.5, "shrink takes")])
def test_too_little_memory_is_said_before_anything_starts(thimble, source, short_rows, tmp_path, share, words):
    """0.7 checkpoints do not hold the weights, 2.5 not what shrinking takes beside them."""
    out = tmp_path / "never.onnx"
    limit = int(share * checkpoint_bytes(source)) + ADDRESSES
    done = limited(thimble, limit, "shrink", source, "--budget", "12MiB", "--calibrate", short_rows, "-o", out)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "ulimit -v" in done.stderr and "panicked" not in done.stderr
    assert not list(tmp_path.iterdir())


# What the program's own code, libraries and the map of the checkpoint take of it.
ADDRESSES = 80 * MIB
