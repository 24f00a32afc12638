"""The cross-built device as the CPU of each board, behind the same face as this machine's own programs."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

from bench import Models, Thimble  # noqa: E402, F401

# The CPUS that run each program, which a variable names. 64 bits: Zero 2 W and 3B+, Jetson Nano, Pi 4 and CM4, Pi 5 (and nearest to
# the Orin Nano). 32 bits: boards with a Cortex-A7, and the 32-bit systems of the others.
ALL = {"THIMBLE_DEVICE": ("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76"), "THIMBLE_DEVICE_ARMV7": ("cortex-a7",)}
PROGRAMS = {cpu: os.environ[variable] for variable, cpus in ALL.items() if variable in os.environ for cpu in cpus}
CPUS = tuple(PROGRAMS)
# One for each program.
FIRST = tuple(cpus[0] for cpus in ALL.values() if cpus[0] in CPUS)


class Arm(Thimble):
    """A cross-built device as one CPU; the host program stays this machine's."""

    def __init__(self, folder, binary, cpu):
        super().__init__(folder)
        self.device = ROOT / "scripts" / "device-on-arm"
        self.environment = {**os.environ, "THIMBLE_DEVICE": str(binary), "THIMBLE_CPU": cpu}

    def run(self, *args, **options):
        return super().run(*args, env=self.environment, **options)
