//! The command line: one place for every flag and its help. Raw arguments are parsed into typed ones here; each
//! subcommand's work lies in `cmd`. Exit codes: 0 yes, 1 a clear no, 2 usage, I/O or malformed input.

use crate::budget::integer_arithmetic::Prefer;
use crate::budget::preparations::Step;
use crate::cmd;
use crate::eval::metrics::Objective;
use crate::models::model_file::ReadOptions;
use crate::render::text::{one_line, printable, say};
use bytesize::ByteSize;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use thimble_device::block_cache;
use thimble_device::image::sigbus;
use thimble_device::platform::process;
use thimble_shared::decode::MAX_ANSWER;
use thimble_shared::dtype::Format;
use thimble_shared::model::Head;

#[derive(Debug, Parser)]
#[command(
    name = "thimble",
    version,
    about = "Fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss",
    after_help = "Exit codes: 0 yes; 1 a clear no (over budget, below agreement, different); 2 usage, I/O or malformed input."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checkpoint or another tool's ONNX → one ONNX file, in one number format throughout
    Export(ExportArgs),
    /// Checkpoint or another tool's ONNX → the ONNX file with the least measured loss under a byte budget
    Shrink(Box<ShrinkArgs>),
    /// Where the bytes of a file are, and whether its nodes state what it says of itself
    Inspect(InspectArgs),
    /// A smaller ONNX file that computes the same, for any ONNX
    Slim(SlimArgs),
    /// How far apart two models are
    Verify(VerifyArgs),
    /// One inference on this machine, answered as a person would read it
    Run(RunArgs),
    /// The boards thimble knows
    Targets(TargetsArgs),
    /// Boots the virtual board of a target with a model: memory as a real kernel counts it
    Emulate(EmulateArgs),
    /// Checks a board over ssh, sends program and model, measures, compares
    Deploy(DeployArgs),
    /// Bench reports side by side: a table, Markdown or one HTML page
    Report(ReportArgs),
    /// An arm64 Debian package of device program, model and unit
    Package(PackageArgs),
    /// Device program, model and unit into a mounted root file system or an SD card's image
    Install(InstallArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Fp32,
    Fp16,
    /// int8 weights, f32 arithmetic
    W8,
    /// int8 weights and activations
    Int8,
    /// int8 weights and activations, each token around the middle of its range
    Int8a,
    /// int4 weights in blocks of 32, int8 activations
    Int4,
}

impl Precision {
    pub fn format(self) -> Format {
        match self {
            Precision::Fp32 => Format::F32,
            Precision::Fp16 => Format::F16,
            Precision::W8 => Format::W8,
            Precision::Int8 => Format::I8,
            Precision::Int8a => Format::I8A,
            Precision::Int4 => Format::I4,
        }
    }
}

/// How a model is read where its folder or file leaves it open.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reading the source")]
pub struct SourceArgs {
    /// Make this head, whatever class config.json names
    #[arg(long, value_enum, value_name = "NAME")]
    pub head: Option<HeadName>,
    /// Merge this LoRA adapter of PEFT into the checkpoint
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Of an ONNX file: take the ALBERT that ends in this value, in place of the file's outputs; a list takes several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub output_value: Vec<String>,
    /// Of a quantised ONNX file: take its weights as they are; what quantising cost stays lost
    #[arg(long)]
    pub dequantize: bool,
}

impl SourceArgs {
    /// What the readers take.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            head: self.head.map(HeadName::head),
            adapter: self.adapter.clone(),
            output_values: self.output_value.clone(),
            dequantize: self.dequantize,
        }
    }
}

/// The heads by the names the command line gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadName {
    /// Hidden states, and the pooler's output where there is a pooler
    None,
    /// Masked language modelling
    Mlm,
    /// Masked language modelling and sentence order
    Pretraining,
    /// Sequence classification or regression
    Sequence,
    /// Token classification
    Token,
    /// Extractive question answering
    Qa,
    /// Multiple choice
    Choice,
}

impl HeadName {
    /// The head it names.
    pub fn head(self) -> Head {
        match self {
            HeadName::None => Head::None,
            HeadName::Mlm => Head::MaskedLm,
            HeadName::Pretraining => Head::PreTraining,
            HeadName::Sequence => Head::SequenceClassification,
            HeadName::Token => Head::TokenClassification,
            HeadName::Qa => Head::QuestionAnswering,
            HeadName::Choice => Head::MultipleChoice,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A checkpoint (a folder, or its weights file), an ALBERT that another tool wrote as ONNX, or a file of thimble's
    pub source: PathBuf,
    /// The ONNX file to write; the tokenizer goes beside it
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Format of every table and linear weight [default: fp32, or what a file of thimble's already has]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    #[command(flatten)]
    pub reading: SourceArgs,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OnnxArgs {
    /// ONNX operator set, 13 to 18 [default: 17, or what a file of thimble's already has]
    #[arg(long)]
    pub opset: Option<i64>,
    /// Fix the sequence length [default: symbolic, or what a file of thimble's already has]
    #[arg(long, value_name = "N")]
    pub seq: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub struct ShrinkArgs {
    /// A checkpoint (a folder, or its weights file), an ALBERT that another tool wrote as ONNX, or a file of thimble's
    pub source: PathBuf,
    /// Most bytes the file may have: 12MiB (1024²), 12MB (1000²) or a plain number of bytes
    #[arg(long, value_parser = size, required_unless_present_any = ["max_ram", "max_latency", "min_agreement", "frontier"])]
    pub budget: Option<ByteSize>,
    /// The ONNX file to write; the tokenizer goes beside it
    #[arg(short, long, value_name = "OUT.onnx", required_unless_present_any = ["dry_run", "frontier"])]
    pub output: Option<PathBuf>,
    /// Inputs to measure the loss on: JSON lines with "text" (and "text_pair", "label") or "input_ids", or safetensors
    #[arg(long, value_name = "X.jsonl")]
    pub calibrate: Option<PathBuf>,
    /// Most calibration rows the choice is made on; up to 256 others are held out for the report
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = rows)]
    pub rows: usize,
    /// With a budget: refuse a result whose decisions agree with the original's less often than this, 0 to 1. Without one:
    /// the smallest file that agrees at least this often
    #[arg(long, value_name = "F", value_parser = share)]
    pub min_agreement: Option<f64>,
    /// Most RAM the device program may need, as predicted from the model's shape at --seq tokens
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_ram: Option<ByteSize>,
    /// Most milliseconds one inference of --seq tokens may take, as predicted from the target's profile
    #[arg(long, value_name = "MS", requires = "target", value_parser = milliseconds)]
    pub max_latency: Option<f64>,
    /// What is minimised [default: kl where the model decides something, error elsewhere]
    #[arg(long, value_enum)]
    pub objective: Option<Objective>,
    /// Round to nearest and prepare the model in no way, whatever it costs
    #[arg(long)]
    pub nearest: bool,
    /// Ways of preparing the model that may be tried [default: all]
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "nearest"
    )]
    pub prepare: Vec<Step>,
    /// What decides between integer arithmetic and f32 arithmetic (w8, f16, f32), which loses less and is slower
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, conflicts_with = "formats")]
    pub prefer: Prefer,
    /// Formats the solver may use, whatever --prefer would do [default: f32,f16,i8,i8a,i4; with --prefer speed, linear maps
    /// take i8, i8a and i4 only]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub formats: Vec<Format>,
    /// Board the file is for: its RAM is held against the file's size
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    #[command(flatten)]
    pub frontier: FrontierArgs,
    #[command(flatten)]
    pub levers: LeverArgs,
    /// Say what would be written and its size, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    #[command(flatten)]
    pub reading: SourceArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Frontier")]
pub struct FrontierArgs {
    /// Print bytes against loss, from the smallest file to fp32
    #[arg(long)]
    pub frontier: bool,
    /// Budgets tried for it
    #[arg(long, value_name = "N", default_value_t = 12, requires = "frontier", value_parser = points)]
    pub points: usize,
    /// Beside each point, the same formats rounded to nearest without rescaling
    #[arg(long, requires = "frontier")]
    pub baseline: bool,
    /// Draw it as an SVG file
    #[arg(long, value_name = "FILE", requires = "frontier")]
    pub svg: Option<PathBuf>,
    /// Draw it as an HTML page that needs nothing else
    #[arg(long, value_name = "FILE", requires = "frontier")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Levers: what can be left out")]
pub struct LeverArgs {
    /// Leave out the pooler of a model without a head that reads it
    #[arg(long)]
    pub drop_pooler: bool,
    /// Cut the position embeddings to this many tokens
    #[arg(long, value_name = "N")]
    pub max_seq: Option<usize>,
    /// Drop vocabulary rows that this text never produces: one text per line, or JSON lines with "text"
    #[arg(long, value_name = "FILE")]
    pub vocab_from: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// An ONNX file
    pub file: PathBuf,
    /// The checkpoint it came from (or another ONNX file), to compare sizes with
    #[arg(long, value_name = "SRC")]
    pub against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write a page with a map of the file, too; it needs nothing but a browser
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct SlimArgs {
    /// An ONNX file, ALBERT or not; the smaller graph computes the same, and a runtime that fuses it otherwise may round its
    /// last bits otherwise
    pub file: PathBuf,
    /// The ONNX file to write; external data goes to OUT.onnx.data, and where one is replaced for a moment to
    /// OUT.onnx.<SHA-256>.data
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Keep only these outputs, and only what they need; an inner value becomes an output, and the inputs it does not need go
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub outputs: Vec<String>,
    /// Give inner values short names and nodes none
    #[arg(long)]
    pub short_names: bool,
    /// Leave the model's own metadata out as well; programs may read it
    #[arg(long)]
    pub strip_metadata: bool,
    /// Leave declared shapes of inner values out as well; a runtime may then fuse and round differently
    #[arg(long)]
    pub strip_shapes: bool,
    /// Put external data into the file
    #[arg(long)]
    pub one_file: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The model to compare with: a checkpoint, another tool's ONNX, or a file of thimble's
    pub reference: PathBuf,
    /// The model to judge
    pub candidate: PathBuf,
    /// Inputs: JSON lines or safetensors; without them, made-up token sequences
    #[arg(long, value_name = "X")]
    pub inputs: Option<PathBuf>,
    /// Most rows used
    #[arg(long, value_name = "N", value_parser = rows)]
    pub rows: Option<usize>,
    /// Exit 1 when decisions agree less often than this, 0 to 1
    #[arg(long, value_name = "F", value_parser = share)]
    pub min_agreement: Option<f64>,
    /// Exit 1 when any output differs by more than this
    #[arg(long, value_name = "X", value_parser = difference)]
    pub max_abs: Option<f64>,
    /// Compare models whose labels have other names or another problem type, in their order
    #[arg(long)]
    pub ignore_labels: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reading: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A file of thimble's, a checkpoint, or another tool's ONNX
    pub file: PathBuf,
    /// Text to run on; [MASK] marks what a masked LM shall fill
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    pub text: Option<String>,
    /// Second text: the context of a question; for multiple choice, once per choice
    #[arg(long, requires = "text")]
    pub pair: Vec<String>,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub ids: Option<Vec<i64>>,
    /// tokenizer.json, spiece.model, vocab.txt or their folder to use instead of the tokenizer beside the model
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help = max_answer_help())]
    pub max_answer: Option<u32>,
    /// Let "no answer" win, for models trained on questions that have none
    #[arg(long)]
    pub allow_no_answer: bool,
    /// Print the tag of every token instead of spans
    #[arg(long)]
    pub per_token: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reading: SourceArgs,
}

fn max_answer_help() -> String {
    format!("Most tokens of an answer to a question [default: {MAX_ANSWER}]")
}

#[derive(Debug, clap::Args)]
pub struct TargetsArgs {
    /// A board's name or the path of a target file: prints all that is known of it
    pub name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct EmulateArgs {
    /// A file of thimble's
    pub file: PathBuf,
    /// The board: a name (see thimble targets) or the path of a target file
    #[arg(long, value_name = "NAME")]
    pub target: String,
    /// RAM of the virtual board [default: the target's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub ram: Option<ByteSize>,
    /// Find the least RAM in which the model runs
    #[arg(long)]
    pub find_min_ram: bool,
    /// Tokens of the sequence [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seq: Option<u32>,
    /// Threads on the board [default: its cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Say no when the program's peak memory is over this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_ram: Option<ByteSize>,
    /// An arm64 kernel: an Image or a Debian package of one [default: Debian's, fetched with apt]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Where the model lies [default: disk, or initramfs when the kernel comes without modules]
    #[arg(long, value_enum)]
    pub storage: Option<crate::boards::emulator::initramfs::Storage>,
    /// The aarch64 thimble-device [default: where scripts/cross-build leaves it]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
    /// Write the bench report there
    #[arg(short, long, value_name = "REPORT.json")]
    pub output: Option<PathBuf>,
    /// Show the board's console on stderr
    #[arg(long)]
    pub verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct DeployArgs {
    /// A file of thimble's
    pub file: PathBuf,
    /// The board: a name (see thimble targets) or the path of a target file
    #[arg(long, value_name = "NAME", required_unless_present = "inventory")]
    pub target: Option<String>,
    /// Where it is, as ssh takes it: USER@HOST, or a name of your ssh configuration
    #[arg(long, value_name = "USER@HOST", required_unless_present = "inventory")]
    pub to: Option<String>,
    /// Many boards at once: an Ansible inventory (INI); thimble_target=NAME names a host's board
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    pub inventory: Option<PathBuf>,
    /// Directory on the board, from the user's home unless absolute
    #[arg(long, value_name = "DIR", default_value = ".thimble")]
    pub dir: String,
    /// ssh configuration to use instead of yours (ports, keys, jump hosts)
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Say no when the program's peak memory is over this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_ram: Option<ByteSize>,
    /// Say no when 95 % of the runs are not within this
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub max_p95: Option<f64>,
    /// Tokens of the sequence [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seq: Option<u32>,
    /// Timed runs [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub runs: Option<u32>,
    /// Threads on the board [default: its cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Measure a program that reads the model into RAM of its own instead of mapping it (thimble-device --copy)
    #[arg(long)]
    pub copy: bool,
    /// Leave it installed: a systemd unit that measures the board at every boot
    #[arg(long)]
    pub keep: bool,
    /// Reports so far, one JSON line each; the new one is added
    #[arg(long, value_name = "FILE", default_value = "thimble-reports.jsonl")]
    pub history: PathBuf,
    /// The aarch64 thimble-device [default: where scripts/cross-build leaves it]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Bench reports (.json), or histories of them as deploy keeps them (.jsonl)
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Print Markdown
    #[arg(long, visible_alias = "md", conflicts_with = "json")]
    pub markdown: bool,
    /// Write one self-contained page
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct PackageArgs {
    /// A file of thimble's
    pub file: PathBuf,
    /// The package to write
    #[arg(short, long, value_name = "OUT.deb")]
    pub output: PathBuf,
    #[command(flatten)]
    pub payload: PayloadArgs,
    /// Package name
    #[arg(long, default_value = "thimble-model")]
    pub name: String,
    /// Package version
    #[arg(long, value_name = "V", default_value = env!("CARGO_PKG_VERSION"))]
    pub release: String,
    /// Who answers for it, as Debian writes it
    #[arg(long, value_name = "NAME <MAIL>")]
    pub maintainer: String,
    /// Description of what the model is for, one line
    #[arg(long, default_value = "ALBERT model with the program that runs and measures it")]
    pub description: String,
}

#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// A file of thimble's
    pub file: PathBuf,
    /// A mounted root file system of an aarch64 system
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "image",
        conflicts_with = "image"
    )]
    pub rootfs: Option<PathBuf>,
    /// A raw SD-card image: it is replaced by one that holds the files, whole or not at all (needs e2fsprogs, no root)
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// The image's root partition [default: the only ext4 one with etc/os-release]
    #[arg(long, value_name = "N", requires = "image")]
    pub partition: Option<u32>,
    /// The board it is for: its RAM and file are held against each other
    #[arg(long, value_name = "NAME")]
    pub target: String,
    #[command(flatten)]
    pub payload: PayloadArgs,
}

#[derive(Debug, clap::Args)]
pub struct PayloadArgs {
    /// The unit's memory limit (MemoryMax=)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_ram: Option<ByteSize>,
    /// The aarch64 thimble-device [default: where scripts/cross-build leaves it]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("'{text}' is not a size; write 12MiB (1024²), 12MB (1000²) or bytes"))?;
    if size.as_u64() == 0 {
        Err("a budget of 0 bytes holds nothing".into())
    } else {
        Ok(size)
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err(format!("'{text}' is not a share; write a number from 0 to 1")),
    }
}

fn rows(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1_000_000).contains(&n) => Ok(n),
        _ => Err(format!("'{text}' is not a number of rows; write 1 to 1000000")),
    }
}

fn points(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (2..=100).contains(&n) => Ok(n),
        _ => Err(format!("'{text}' is not a number of points; write 2 to 100")),
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(format!("'{text}' is not a time; write milliseconds above 0")),
    }
}

fn difference(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err(format!("'{text}' is not a difference; write a number of at least 0")),
    }
}

/// What a command has to say, and its exit code.
#[derive(Debug)]
pub struct Outcome {
    pub text: String,
    pub code: u8,
    /// What is wrong with the input, on stderr beside the text.
    pub error: Option<String>,
}

impl Outcome {
    pub fn yes(text: impl Into<String>) -> Self {
        Outcome {
            text: text.into(),
            code: 0,
            error: None,
        }
    }

    pub fn no(text: impl Into<String>) -> Self {
        Outcome {
            text: text.into(),
            code: 1,
            error: None,
        }
    }

    /// The answer could be given, but it is that the input is malformed.
    pub fn malformed(text: impl Into<String>, error: String) -> Self {
        Outcome {
            text: text.into(),
            code: 2,
            error: Some(error),
        }
    }
}

/// Parses the arguments, runs the command, prints its outcome.
pub fn main() -> ExitCode {
    sigbus::install("error: ", "start again with the whole file");
    // A limit on the size of files (ulimit -f) is then an error that names the file, not the end.
    // SAFETY: to ignore a signal needs no handler, and nothing else here has a say in this one.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    block_cache::models();
    let command = Cli::parse().command;
    // What the start took of the program is no part of a command's memory.
    process::forget_program();
    let result = match command {
        Command::Export(args) => cmd::export::run(&args),
        Command::Shrink(args) => cmd::shrink::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Slim(args) => cmd::slim::run(&args),
        Command::Verify(args) => cmd::verify::run(&args),
        Command::Run(args) => cmd::run::run(&args),
        Command::Targets(args) => cmd::targets::run(&args),
        Command::Emulate(args) => cmd::emulate::run(&args),
        Command::Deploy(args) => cmd::deploy::run(&args),
        Command::Report(args) => cmd::report::run(&args),
        Command::Package(args) => cmd::package::run(&args),
        Command::Install(args) => cmd::install::run(&args),
    };
    match result {
        Ok(outcome) => {
            // A reader that went away (`thimble inspect … | head`) is no error.
            let mut out = std::io::stdout().lock();
            match out.write_all(outcome.text.as_bytes()).and_then(|()| out.flush()) {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    say(&format!("error: cannot print the result: {e}"));
                    ExitCode::from(2)
                }
                _ => {
                    if let Some(error) = outcome.error {
                        say(&format!("error: {}", printable(&error)));
                    }
                    ExitCode::from(outcome.code)
                }
            }
        }
        Err(error) => {
            say(&format!("error: {}", one_line(&error)));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_mb_and_mib_differ_and_zero_is_refused() {
        assert_eq!(size("12MiB").unwrap().as_u64(), 12 << 20);
        assert_eq!(size("12MB").unwrap().as_u64(), 12_000_000);
        assert_eq!(size("4096").unwrap().as_u64(), 4096);
        for bad in ["0", "0MiB", "twelve", "-1", "12 parsecs", ""] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
