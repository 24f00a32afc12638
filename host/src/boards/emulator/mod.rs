//! The virtual board: qemu with a target's CPU, cores and RAM, a Debian kernel, and an initramfs that holds the device
//! program. RAM, page faults and the out-of-memory killer are then a real kernel's; time is not. In: a model and a
//! [`Setup`]; out: what the board did, as an [`Ending`].

mod console;
pub mod initramfs;
pub mod kernel;
mod listen;

use crate::boards::tools;
use crate::fs::atomic::FileError;
use crate::fs::scratch::Scratch;
use crate::fs::signals::PutOff;
use crate::fs::subprocess::{ToolError, ends_with_us};
use crate::render::text::{remark, size};
use initramfs::{INITRAMFS, MODEL_DISK, Storage};
use kernel::Kernel;
use std::path::Path;
use std::process::{Command, Stdio};
use thimble_shared::board::architecture::Architecture;
use thimble_shared::board::report::Report;

#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Kernel(String),
    #[error("{kernel} does not start on the virtual board, not with {ram} of RAM either ({said}); name another with --kernel", ram = size(*.ram))]
    NeverStarts { kernel: String, ram: u64, said: String },
    #[error("the virtual board said nothing for {seconds} s; its last words: {last}")]
    Silent { seconds: u64, last: String },
    #[error("the virtual board: {0}")]
    Guest(String),
}

impl BoardError {
    fn file(path: &Path, problem: impl ToString) -> BoardError {
        FileError::new(path, problem).into()
    }
}

/// All a boot needs, beside its RAM.
pub struct Setup<'a> {
    pub architecture: Architecture,
    pub cpu: &'a str,
    pub cores: u32,
    pub kernel: &'a Kernel,
    pub device_program: &'a Path,
    pub model: &'a Path,
    pub storage: Storage,
    /// Arguments of `thimble-device bench`, after the file.
    pub bench: &'a [String],
    pub verbose: bool,
}

/// How a boot ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// The bench ran; its report, times as the emulator's clock told them.
    Ran(Box<Report>),
    /// Too little RAM: to boot, or for the program.
    OutOfMemory(Shortage),
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Shortage {
    /// Where it ended: "boot" before anything of thimble's ran, "load" or "run" after.
    pub during: &'static str,
    /// Resident bytes of the process when the kernel killed it; `None` when it never started.
    pub anon: Option<u64>,
    pub file: Option<u64>,
    pub mem_total: Option<u64>,
    pub mem_available: Option<u64>,
    pub kernel_said: String,
}

/// Most RAM that a virtual board has.
pub const fn most_ram(architecture: Architecture) -> u64 {
    match architecture {
        Architecture::Aarch64 => 1 << 40,
        // What lies below its devices.
        Architecture::Armv7 => 3 << 30,
    }
}

/// RAM in which every kernel for the virtual board starts.
const ENOUGH: u64 = 512 << 20;
/// The kernel's name beside [`INITRAMFS`].
const KERNEL: &str = "kernel";

/// A virtual board that is booted with this and that much RAM.
pub struct Machine<'a> {
    setup: &'a Setup<'a>,
    /// RAM that is enough to start in, whatever the board has.
    pub enough: u64,
    with_enough: Option<Ending>,
    /// Every boot's RAM, and whether the model ran in it.
    pub boots: Vec<(u64, bool)>,
}

impl<'a> Machine<'a> {
    pub fn new(setup: &'a Setup<'a>, full: u64) -> Machine<'a> {
        Machine {
            setup,
            enough: full.max(ENOUGH),
            with_enough: None,
            boots: Vec::new(),
        }
    }

    pub fn boot(&mut self, ram: u64) -> Result<Ending, BoardError> {
        match self.once(ram)? {
            Shown::Ended(ending) => Ok(ending),
            // Only where the same kernel starts with more can it have been the RAM.
            Shown::NoStart(shortage) => {
                if ram >= self.enough {
                    return Err(self.never_starts(ram, shortage));
                }
                if !self.boots.iter().any(|(_, ran)| *ran) {
                    self.with_enough()?;
                }
                Ok(Ending::OutOfMemory(shortage))
            }
        }
    }

    /// How it ends where RAM is not scarce.
    pub fn with_enough(&mut self) -> Result<&Ending, BoardError> {
        let ending = match self.with_enough.take() {
            Some(known) => known,
            None => match self.once(self.enough)? {
                Shown::Ended(ending) => ending,
                Shown::NoStart(shortage) => return Err(self.never_starts(self.enough, shortage)),
            },
        };
        Ok(self.with_enough.insert(ending))
    }

    fn never_starts(&self, ram: u64, shortage: Shortage) -> BoardError {
        BoardError::NeverStarts {
            kernel: self.setup.kernel.name(),
            ram,
            said: shortage.kernel_said,
        }
    }

    fn once(&mut self, ram: u64) -> Result<Shown, BoardError> {
        let shown = boot(self.setup, ram)?;
        let (fits, told) = match &shown {
            Shown::Ended(Ending::Ran(_)) => (true, "ran"),
            Shown::Ended(Ending::OutOfMemory(_)) => (false, "out of memory"),
            Shown::NoStart(_) => (false, "did not start"),
        };
        remark(&format!("booted with {}: {told}", size(ram)));
        self.boots.push((ram, fits));
        Ok(shown)
    }
}

/// What one boot showed.
enum Shown {
    Ended(Ending),
    /// It stopped before anything of thimble's ran, and did not say that it was for memory.
    NoStart(Shortage),
}

/// Boots once with `ram` bytes.
fn boot(setup: &Setup, ram: u64) -> Result<Shown, BoardError> {
    let _put_off = PutOff::begin();
    let dir = Scratch::new().map_err(|e| BoardError::file(&std::env::temp_dir(), e))?;
    let image = initramfs::build(setup, dir.path())?;
    let kernel = &setup.kernel.image;
    let kernel_bytes = kernel
        .canonicalize()
        .and_then(|path| {
            std::os::unix::fs::symlink(&path, dir.path().join(KERNEL))?;
            path.metadata()
        })
        .map_err(|e| BoardError::file(kernel, e))?
        .len();
    // The second version of the interrupt controller, which every kernel knows, has room for eight cores.
    let mut machine = match setup.cores {
        ..=8 => "virt,gic-version=2",
        _ => "virt,gic-version=3",
    }
    .to_string();
    // A kernel of 32 bits does not reach devices above 4 GiB.
    if setup.architecture == Architecture::Armv7 {
        machine += ",highmem=off";
    }
    let qemu = tools::qemu(setup.architecture);
    let mut command = Command::new(qemu);
    command
        .current_dir(dir.path())
        .args([
            "-M",
            &machine,
            "-accel",
            "tcg,thread=multi",
            "-nodefaults",
            "-nographic",
        ])
        .args(["-no-reboot", "-serial", "stdio", "-cpu", setup.cpu])
        .args(["-smp", &setup.cores.to_string()])
        .args(["-m", &format!("{}k", ram / 1024)])
        .args(["-kernel", KERNEL, "-initrd", INITRAMFS])
        // Errors only: the console is slow, and a kill by the out-of-memory killer is an error. The early console lets a
        // kernel that has too little RAM for a real one say so.
        .args([
            "-append",
            "console=ttyAMA0 earlycon=pl011,0x09000000 loglevel=4 panic=-1 rdinit=/init",
        ]);
    if image.has_disk {
        let drive = format!("file={MODEL_DISK},format=raw,if=none,id=model,readonly=on");
        command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=model"]);
    }
    ends_with_us(&mut command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| ToolError::start(qemu, &e, "install it (Debian: apt-get install qemu-system-arm)"))?;
    let heard = listen::listen(child, setup.verbose)?;
    // qemu puts the initramfs into the upper half.
    let cramped = ram < 2 * (kernel_bytes + image.initramfs_bytes) + (16 << 20);
    console::understand(&heard, cramped, qemu)
}

/// The least RAM, in steps of `step` bytes, in which `fits` says yes; `None` when `most` is too little. A boot that fails is
/// over in seconds and one that runs may take minutes, so it climbs from the floor in wide steps and halves only the last.
pub fn least_ram<E>(
    floor: u64,
    most: u64,
    step: u64,
    mut fits: impl FnMut(u64) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    const WIDE: u64 = 8;
    let (mut too_little, most) = ((floor / step).saturating_sub(1), most / step);
    let mut enough = None;
    let mut stride = WIDE;
    while enough.is_none() {
        let next = (too_little + stride).min(most);
        if next <= too_little {
            return Ok(None);
        }
        if fits(next * step)? {
            enough = Some(next);
        } else {
            too_little = next;
            // Far from the floor wider steps lose little.
            stride = WIDE.max(next / 8);
        }
    }
    let mut enough = enough.unwrap_or(most);
    while enough - too_little > 1 {
        let middle = too_little + (enough - too_little) / 2;
        if fits(middle * step)? {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    Ok(Some(enough * step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_ram_is_found_and_few_boots_are_made() {
        for least in [33u64, 64, 65, 200, 511, 512] {
            let mut boots = 0;
            let found = least_ram::<()>(32, 512, 1, |ram| {
                boots += 1;
                Ok(ram >= least)
            });
            assert_eq!(found, Ok(Some(least)));
            assert!(boots <= 30, "{boots} boots for {least}");
        }
        assert_eq!(least_ram::<()>(32, 512, 1, |_| Ok(false)), Ok(None));
        assert_eq!(least_ram(0, 8, 1, |_| Err("qemu")), Err("qemu"));
    }
}
