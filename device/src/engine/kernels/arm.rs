//! What the kernels for 32-bit Arm share: whether the CPU has NEON, and tiles of sums in every vector register. Rust promises
//! no vector instruction there and has no stable intrinsics for them, so all of it is assembly, behind a look at run time.

/// The kernel's bit for NEON, in the word of the auxiliary vector that lists what a 32-bit program may use.
const HWCAP_NEON: libc::c_ulong = 1 << 12;

/// Whether the CPU has NEON. Those of some Armv7 chips have no vector instructions, or none that their kernel saves.
pub fn has_neon() -> bool {
    // SAFETY: it takes a number and returns one, 0 for what the kernel does not tell.
    unsafe { libc::getauxval(libc::AT_HWCAP) & HWCAP_NEON != 0 }
}

/// Clears vector registers, whose numbers are given with commas.
macro_rules! clear_sums {
    ($registers:literal) => {
        concat!(".irp r, ", $registers, "\nvmov.i32 q\\r, #0\n.endr")
    };
}
pub(super) use clear_sums;

/// A kernel in assembly: it may use every vector register and no stack. The upper half of the registers is not the compiler's where
/// it knows of no NEON, and says so to nobody.
macro_rules! neon_asm {
    ($($kernel:tt)*) => {
        std::arch::asm!(
            ".fpu neon",
            $($kernel)*
            out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _, out("d7") _,
            out("d8") _, out("d9") _, out("d10") _, out("d11") _, out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            out("d16") _, out("d17") _, out("d18") _, out("d19") _, out("d20") _, out("d21") _, out("d22") _, out("d23") _,
            out("d24") _, out("d25") _, out("d26") _, out("d27") _, out("d28") _, out("d29") _, out("d30") _, out("d31") _,
            options(nostack),
        )
    };
}
pub(super) use neon_asm;
