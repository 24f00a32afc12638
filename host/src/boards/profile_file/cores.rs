//! The designs of cores that boards have, and what follows of each where a target file does not say it.

use thimble_shared::board::architecture::Architecture;

/// What is known of a core's design.
pub(super) struct Core {
    pub name: &'static str,
    /// As Linux numbers it (asm/cputype.h of arch/arm64, arch/arm).
    pub part: &'static str,
    pub l1d: u64,
    pub l2: u64,
    pub dot_product: bool,
    /// The nearest CPU qemu offers.
    pub qemu: &'static str,
    /// The widest that it runs.
    pub runs: Architecture,
}

/// What qemu has for systems of 32 bits on a core of 64.
pub(super) const QEMU_32: &str = "cortex-a7";

const fn core(
    name: &'static str,
    part: &'static str,
    (l1d, l2): (u64, u64),
    dot_product: bool,
    qemu: &'static str,
) -> Core {
    Core {
        name,
        part,
        l1d: l1d << 10,
        l2: l2 << 10,
        dot_product,
        qemu,
        runs: Architecture::Aarch64,
    }
}

const fn core32(name: &'static str, part: &'static str, (l1d, l2): (u64, u64), qemu: &'static str) -> Core {
    Core {
        runs: Architecture::Armv7,
        ..core(name, part, (l1d, l2), false, qemu)
    }
}

/// Designs boards have; caches in KiB, as they are most often built.
pub(super) const CORES: [Core; 19] = [
    core32("Cortex-A7", "0xc07", (32, 512), "cortex-a7"),
    core32("Cortex-A8", "0xc08", (32, 256), "cortex-a8"),
    core32("Cortex-A9", "0xc09", (32, 512), "cortex-a9"),
    core32("Cortex-A15", "0xc0f", (32, 1024), "cortex-a15"),
    core32("Cortex-A17", "0xc0e", (32, 512), "cortex-a15"),
    core("Cortex-A35", "0xd04", (32, 256), false, "cortex-a35"),
    core("Cortex-A53", "0xd03", (32, 512), false, "cortex-a53"),
    core("Cortex-A55", "0xd05", (32, 512), true, "cortex-a55"),
    core("Cortex-A57", "0xd07", (32, 2048), false, "cortex-a57"),
    core("Cortex-A72", "0xd08", (32, 1024), false, "cortex-a72"),
    core("Cortex-A73", "0xd09", (32, 1024), false, "cortex-a72"),
    core("Cortex-A75", "0xd0a", (64, 256), true, "cortex-a76"),
    core("Cortex-A76", "0xd0b", (64, 512), true, "cortex-a76"),
    core("Cortex-A77", "0xd0d", (64, 256), true, "cortex-a76"),
    core("Cortex-A78", "0xd41", (64, 512), true, "cortex-a76"),
    core("Cortex-A78AE", "0xd42", (64, 256), true, "cortex-a76"),
    core("Cortex-X1", "0xd44", (64, 1024), true, "cortex-a76"),
    core("Cortex-A510", "0xd46", (32, 256), true, "cortex-a710"),
    core("Cortex-A710", "0xd47", (64, 512), true, "cortex-a710"),
];
