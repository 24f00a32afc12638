//! `thimble emulate`: boots the virtual board of a target with the model and tells what the kernel counted; on request,
//! finds the least RAM in which the model runs.

use super::args::{bytes, ram};
use super::outcome::Outcome;
use crate::boards::cost_model::seq_of;
use crate::boards::device_binary::device_program;
use crate::boards::emulator::initramfs::Storage;
use crate::boards::emulator::kernel::Kernel;
use crate::boards::emulator::{BoardError, Ending, Machine, Setup, Shortage, least_ram, most_ram};
use crate::boards::{profiles, tools};
use crate::fs::atomic;
use crate::models::model_file::File;
use crate::render::progress::Bar;
use crate::render::text::{exact, percent, say, size};
use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use thimble_device::session::DEFAULT_SEQ;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::board::report::Report;
use thimble_shared::board::target::Target;
use thimble_text::tokenizer_beside;

#[derive(Debug, clap::Args)]
pub struct EmulateArgs {
    /// Run this thimble file
    pub file: PathBuf,
    /// Name the board (see thimble targets), or give the path of a target file
    #[arg(long, value_name = "NAME")]
    pub target: String,
    /// Give the virtual board this much RAM [default: the target's]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub ram: Option<ByteSize>,
    /// Find the least RAM in which the model runs
    #[arg(long)]
    pub find_min_ram: bool,
    #[arg(long, value_name = "N", help = format!("Run with this many tokens [default: {DEFAULT_SEQ}]"), value_parser = clap::value_parser!(u32).range(1..))]
    pub seq: Option<u32>,
    /// Use this many threads on the board [default: its cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Exit 1 when the program's peak memory exceeds this
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    pub max_ram: Option<ByteSize>,
    /// Boot this kernel: an Image (a zImage of 32 bits) or a Debian package [default: Debian's, fetched with apt]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Choose where the model is stored [default: disk, or initramfs when the kernel has no modules]
    #[arg(long, value_enum)]
    pub storage: Option<crate::boards::emulator::initramfs::Storage>,
    /// Use this thimble-device [default: the one for what the board runs, found as docs/commands.md says]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
    /// Write the bench report to this file
    #[arg(short, long, value_name = "REPORT.json")]
    pub output: Option<PathBuf>,
    /// Show the board's console on stderr
    #[arg(short, long)]
    pub verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const MIB: u64 = 1 << 20;
/// A kernel does not start with less than its image and this: it would stop without a word.
const BESIDE_KERNEL: u64 = 24 * MIB;
/// What the search for the least RAM is fine to.
const STEP: u64 = 2 * MIB;

pub fn run(args: &EmulateArgs) -> Result<Outcome> {
    let target = profiles::find(&args.target)?;
    // What lacks is told before a kernel is fetched.
    let architecture = target.architecture();
    tools::need(&[tools::qemu(architecture)])?;
    if args.storage == Some(Storage::Disk) || (args.storage.is_none() && args.kernel.is_none()) {
        tools::need(&["mke2fs"])?;
    }
    args.output.as_deref().map_or(Ok(()), atomic::can_be_written)?;
    let file = File::for_board(&args.file)?;
    let seq = seq_of(&file.artifact.graph.config, args.seq)?;
    let device_program = device_program(args.device_program.as_deref(), architecture)?;
    refuse_inputs(args, &device_program)?;
    let bar = (!args.verbose).then(|| Bar::spinner("finding a kernel"));
    let kernel = Kernel::find(args.kernel.as_deref(), architecture)?;
    let storage = args.storage.unwrap_or(match kernel.has_modules() {
        true => Storage::Disk,
        false => Storage::Initramfs,
    });
    let most = most_ram(architecture);
    let full = target.ram_total.value.min(most);
    let ram = args.ram.map_or(full, |r| r.as_u64());
    if !(MIB..=most).contains(&ram) {
        bail!("--ram {}: give a size from 1MiB to {}", size(ram), size(most));
    }
    let bench = bench_options(args, seq);
    let setup = Setup {
        architecture,
        cpu: &target.qemu_cpu,
        cores: target.cores.value,
        kernel: &kernel,
        device_program: &device_program,
        model: &args.file,
        storage,
        bench: &bench,
        verbose: args.verbose,
    };
    let mut machine = Machine::new(&setup, full);
    let (ran, shortage) = match machine.boot(ram)? {
        Ending::Ran(report) => (Some(report.without_times()), None),
        Ending::OutOfMemory(shortage) => (None, Some(shortage)),
    };
    let wanted = match (&shortage, ram < machine.enough) {
        (Some(_), true) => peak_with_enough(&mut machine)?,
        _ => None,
    };
    let least = match args.find_min_ram {
        true => {
            // What is too little needs no second look.
            let (floor, most) = match shortage {
                None => (image_bytes(&kernel) + BESIDE_KERNEL, ram.min(full)),
                Some(_) => (ram + STEP, full),
            };
            least_ram(floor, most, STEP, |ram| -> Result<bool, BoardError> {
                Ok(matches!(machine.boot(ram)?, Ending::Ran(_)))
            })?
        }
        false => None,
    };
    drop(bar);
    let report = ran;
    if let Some(path) = &args.output {
        write_report(path, report.as_ref())?;
    }
    let told = Told {
        target: &target,
        ram,
        kernel: &kernel.name(),
        storage,
        shortage: shortage.as_ref(),
        wanted,
        report: report.as_ref(),
        least,
    };
    let fits =
        shortage.is_none() && report.as_ref().is_none_or(|r| r.verdict.fits) && (!args.find_min_ram || least.is_some());
    let text = if args.json {
        format!("{:#}\n", told.json(fits, &machine.boots))
    } else {
        told.to_string()
    };
    Ok(if fits { Outcome::yes(text) } else { Outcome::no(text) })
}

/// Refuses to write the report over a file that the board is made of.
fn refuse_inputs(args: &EmulateArgs, device_program: &Path) -> Result<()> {
    if let Some(output) = &args.output {
        let inputs = [args.file.as_path(), &tokenizer_beside(&args.file), device_program];
        let named = [args.kernel.as_deref(), profiles::file(&args.target)]
            .into_iter()
            .flatten();
        atomic::refuse_inputs(output, inputs.into_iter().chain(named))?;
    }
    Ok(())
}

/// What the bench on the board is told.
fn bench_options(args: &EmulateArgs, seq: usize) -> Vec<String> {
    // Times mean nothing here, and memory has settled after the first run.
    let mut bench = ["--json", "--runs", "1", "--warmup", "0"].map(String::from).to_vec();
    let mut option = |name: &str, value: Option<String>| {
        bench.extend(value.into_iter().flat_map(|value| [name.to_string(), value]));
    };
    option("--seq", Some(seq.to_string()));
    option("--threads", args.threads.map(|n| n.to_string()));
    option("--max-ram", args.max_ram.map(|r| r.as_u64().to_string()));
    bench
}

/// How much the model wanted is what it takes where there is enough; the report of that board is not this one's.
fn peak_with_enough(machine: &mut Machine) -> Result<Option<u64>, BoardError> {
    Ok(match machine.with_enough()? {
        Ending::Ran(report) => report.memory.peak_rss,
        Ending::OutOfMemory(_) => None,
    })
}

/// The size of the kernel's image.
fn image_bytes(kernel: &Kernel) -> u64 {
    std::fs::metadata(&kernel.image).map_or(0, |m| m.len())
}

/// Writes the bench report, where there is one.
fn write_report(path: &Path, report: Option<&Report>) -> Result<()> {
    match report {
        Some(report) => {
            let text = serde_json::to_string_pretty(report)? + "\n";
            atomic::write_whole(path, text.as_bytes()).with_context(|| "the report".to_string())?;
        }
        None => say(&format!(
            "{}: not written: there is no report of a board it does not fit",
            path.display()
        )),
    }
    Ok(())
}

/// What an emulator leaves open, said every time.
fn not_shown(target: &Target, report: Option<&Report>) -> Vec<String> {
    let mut open = vec!["time: the emulator's clock does not measure the board".to_string()];
    let emulated = report.and_then(|r| r.board.page_size).unwrap_or(4096);
    if target.page_size.value != emulated {
        open.push(format!(
            "pages: this kernel has {} pages, the board {}",
            size(emulated),
            size(target.page_size.value)
        ));
    }
    open.push("RAM that the board's firmware and system take for themselves".into());
    open
}

struct Told<'a> {
    target: &'a Target,
    ram: u64,
    kernel: &'a str,
    storage: Storage,
    shortage: Option<&'a Shortage>,
    /// Peak where there is enough.
    wanted: Option<u64>,
    report: Option<&'a Report>,
    least: Option<u64>,
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let t = self.target;
        writeln!(
            f,
            "virtual {}: {} × {}, {} RAM, {}, model {}",
            t.board,
            t.cores.value,
            t.qemu_cpu,
            size(self.ram),
            self.kernel,
            match self.storage {
                Storage::Disk => "on a virtual disk (ext4)",
                Storage::Initramfs => "in the initramfs: all of it stays in RAM",
            }
        )?;
        if let Some(s) = self.shortage {
            self.lack(f, s)?;
        }
        if let Some(r) = self.report {
            counted(f, r)?;
        }
        if let Some(least) = self.least {
            writeln!(f, "least    {} of board RAM, kernel included", exact(least))?;
        }
        for open in not_shown(t, self.report) {
            writeln!(f, "not shown: {open}")?;
        }
        if self.shortage.is_none() && self.report.is_some_and(|r| r.verdict.fits) {
            writeln!(f, "verdict  fits")?;
        }
        Ok(())
    }
}

impl Told<'_> {
    /// The same as one JSON object; `boots` is the RAM of each boot and whether the model ran in it.
    fn json(&self, fits: bool, boots: &[(u64, bool)]) -> Value {
        let target = self.target;
        json!({
            "schema": ANSWER_SCHEMA,
            "target": target.name,
            "cpu": target.qemu_cpu,
            "cores": target.cores.value,
            "ram": self.ram,
            "kernel": self.kernel,
            "storage": self.storage,
            "fits": fits,
            "shortage": self.shortage,
            "wanted": self.wanted,
            "least_ram": self.least,
            "boots": boots.iter().map(|(ram, fits)| json!({"ram": ram, "fits": fits})).collect::<Vec<_>>(),
            "report": self.report,
            "not_shown": not_shown(target, self.report),
        })
    }

    /// What lacked, and how much it wanted.
    fn lack(&self, f: &mut std::fmt::Formatter, s: &Shortage) -> std::fmt::Result {
        match s.anon {
            _ if s.during == "boot" => writeln!(f, "does not fit: the kernel did not boot")?,
            Some(_) => writeln!(
                f,
                "does not fit: killed for lack of memory, with {} private and {} of the file; the board had {} left",
                bytes_of(s.anon),
                bytes_of(s.file),
                bytes_of(s.mem_available)
            )?,
            None => writeln!(
                f,
                "does not fit: no memory was left for it; the board had {} left",
                bytes_of(s.mem_available)
            )?,
        }
        writeln!(f, "  the kernel said: {}", s.kernel_said)?;
        if let Some(peak) = self.wanted {
            writeln!(f, "needs {}: the peak with enough RAM", exact(peak))?;
        }
        Ok(())
    }
}

/// A size, or that it is unknown.
fn bytes_of(b: Option<u64>) -> String {
    b.map_or("unknown".to_string(), size)
}

/// What the kernel counted while the model ran.
fn counted(f: &mut std::fmt::Formatter, r: &Report) -> std::fmt::Result {
    let m = &r.memory;
    writeln!(
        f,
        "RAM      peak {}, {} before loading; at the end {} of its own, {} of files",
        bytes_of(m.peak_rss),
        bytes_of(m.baseline_rss),
        bytes_of(m.anon),
        bytes_of(m.file)
    )?;
    let count = |n: Option<u64>| n.map_or("unknown".to_string(), |n| n.to_string());
    writeln!(
        f,
        "faults   {} major, {} minor in {} runs of {} tokens",
        count(r.faults.major),
        count(r.faults.minor),
        r.latency_ms.runs,
        r.latency_ms.seq
    )?;
    if let (Some(total), Some(available)) = (r.board.mem_total, r.board.mem_available) {
        writeln!(
            f,
            "board    Linux sees {}, {} available at the end ({})",
            size(total),
            size(available),
            percent(available, total)
        )?;
    }
    writeln!(f, "kernels  {}", r.engine.kernels.join(", "))?;
    r.verdict
        .reasons
        .iter()
        .try_for_each(|reason| writeln!(f, "verdict  no: {reason}"))
}
