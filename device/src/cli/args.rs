//! The command line of thimble-device: one table of options says what is parsed, what the help shows and which command
//! takes what. Raw arguments go in, a typed request comes out; sizes are bytes, times milliseconds.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use super::flags::Command::{self, Ask, Bench, Info, Run, Serve};
use super::flags::{FLAGS, Flag, default_of};
use super::serve_flags;
use crate::bench::report::BenchOptions;
use crate::serve::passed;
use crate::serve::settings::Settings;
use crate::session::{InputSource, SessionOptions};
use thimble_shared::spelling::nearest;

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// `-h` or `--help`, wherever it stands; of the command before it, where there is one.
    Help(Option<Command>),
    /// `-V` or `--version`.
    Version,
    /// A command with its options, checked against each other.
    Do(Command, Box<Options>),
}

/// All options of the command line, by what they are about.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// Absent only for `info`, which then tells of the board alone.
    pub file: Option<PathBuf>,
    /// Safetensors file that `run` writes every output to, as F32.
    pub output: Option<PathBuf>,
    /// Cores to compute on; `None` leaves them to the scheduler.
    pub pin: Option<Vec<u32>>,
    /// Put the file out of the page cache before it is opened.
    pub cold: bool,
    /// Lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Print one JSON object.
    pub json: bool,
    /// How the model is opened.
    pub session: SessionOptions,
    /// What is run.
    pub input: InputSource,
    /// Texts to run instead.
    pub texts: TextOptions,
    /// How long to measure, and the limits.
    pub bench: BenchOptions,
    /// Bounds of the server.
    pub serve: Settings,
}

/// Texts on the command line of `run`.
#[derive(Debug, Default, PartialEq)]
pub struct TextOptions {
    /// What `--text` gave, in order.
    pub text: Vec<String>,
    /// What `--pair` gave, in order; each line of `file` goes with them, too.
    pub pair: Vec<String>,
    /// A file with a text a line; `-` is stdin.
    pub file: Option<PathBuf>,
}

impl TextOptions {
    /// Whether texts are to be run.
    pub fn given(&self) -> bool {
        !self.text.is_empty() || self.file.is_some()
    }
}

/// One line; the program adds nothing but its name.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

/// Every option: those of the commands that end by themselves, then the server's.
fn flags() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(&serve_flags::FLAGS)
}

/// The text of `--help`, from the table of options: all of it, or what one command takes.
pub fn help(command: Option<Command>) -> String {
    let usage = |one: Command| match one {
        Info => ("info [FILE] [options]", "describe the board and the model"),
        Run => ("run FILE [options]", "compute one pass; print or write the outputs"),
        Bench => (
            "bench FILE [options]",
            "measure latency, memory, page faults and temperature",
        ),
        Serve => (
            "serve FILE [options]",
            "answer JSON lines on stdin or a socket until stopped",
        ),
        Ask => (
            "ask [options]",
            "ask a server at a socket; without a text each line of stdin",
        ),
    };
    let mut text = String::from("thimble-device: run and measure a thimble model on this board\n\nUsage:\n");
    for one in Command::ALL
        .into_iter()
        .filter(|one| command.is_none_or(|wanted| wanted == *one))
    {
        let (line, what) = usage(one);
        text += &format!("  thimble-device {line:<23} {what}\n");
    }
    text += "\nOptions:\n";
    let of_commands = FLAGS.iter().map(|flag| (flag, default_of(flag)));
    let of_server = serve_flags::FLAGS
        .iter()
        .map(|flag| (flag, serve_flags::default_of(flag)));
    let takes = |flag: &Flag| command.is_none_or(|command| flag.takes.contains(&command));
    for (flag, default) in of_commands.chain(of_server).filter(|(flag, _)| takes(flag)) {
        let mut help = flag.help.replace("{}", &default.unwrap_or_default());
        if command.is_none() {
            let takers: Vec<&str> = flag.takes.iter().map(|c| c.name()).collect();
            help += &format!(" [{}]", takers.join(", "));
        }
        text += &option(&format!("--{} {}", flag.name, flag.value), &help);
    }
    text += &option("-h, --help", "print this text; behind a command, what that takes");
    text += &option("-V, --version", "print the version, and what was built");
    text + "\nExit codes: 0 yes, 1 a limit does not hold, 2 usage, I/O or malformed input.\n"
}

/// Columns of the help.
const WIDTH: usize = 100;

/// An option and its help, whose lines begin below each other.
fn option(name: &str, help: &str) -> String {
    const LEFT: usize = 25;
    let mut text = format!("  {name:<22} ");
    let mut column = text.chars().count();
    for word in help.split(' ') {
        let length = word.chars().count();
        if column > LEFT && column + 1 + length > WIDTH {
            text += &format!("\n{:LEFT$}", "");
            column = LEFT;
        } else if column > LEFT {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text + "\n"
}

/// Reads the arguments, the program's name left out.
///
/// # Errors
/// An unknown command or option, an option the command does not take, a value out of range, or a file missing.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = Parser::from_args(arguments);
    let mut command = None;
    let mut options = Options::default();
    let said = |e: lexopt::Error| UsageError(e.to_string());
    while let Some(argument) = parser.next().map_err(said)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Invocation::Help(command)),
            Arg::Short('V') | Arg::Long("version") => return Ok(Invocation::Version),
            Arg::Value(word) if command.is_none() => {
                let known = Command::ALL.into_iter().find(|c| word.to_str() == Some(c.name()));
                command = Some(known.ok_or_else(|| {
                    let word = word.to_string_lossy();
                    let meant = nearest(&word, Command::ALL.map(Command::name));
                    let meant = meant.map_or(String::new(), |name| format!("did you mean {name}? "));
                    UsageError(format!(
                        "no command {word:?}; {meant}it is info, run, bench, serve or ask"
                    ))
                })?);
            }
            Arg::Value(word) if options.file.is_none() => options.file = Some(PathBuf::from(word)),
            Arg::Value(word) => {
                return Err(UsageError(format!(
                    "one FILE at a time; {:?} is too many",
                    word.to_string_lossy()
                )));
            }
            Arg::Long(long) => {
                let Some(flag) = flags().find(|f| f.name == long) else {
                    return Err(UsageError(format!(
                        "no option --{long}; {}see --help",
                        meant(long, command)
                    )));
                };
                let command = command.ok_or_else(|| UsageError(format!("the command comes before --{}", flag.name)))?;
                // One name may be an option of several commands, with a meaning in each.
                let own = flags().find(|f| f.name == flag.name && f.takes.contains(&command));
                let Some(flag) = own else {
                    return Err(UsageError(format!(
                        "--{} means nothing to {}",
                        flag.name,
                        command.name()
                    )));
                };
                set(flag.name, command, &mut options, &mut parser)?;
            }
            Arg::Short(short) => return Err(UsageError(format!("no option -{short}; see --help"))),
        }
    }
    let command = command
        .ok_or_else(|| UsageError("a command is needed: info, run, bench, serve or ask; see --help".to_string()))?;
    check(command, &options)?;
    Ok(Invocation::Do(command, Box::new(options)))
}

/// Stores the value of `flag`, read from the arguments.
fn set(flag: &'static str, command: Command, options: &mut Options, parser: &mut Parser) -> Result<(), UsageError> {
    let switch = match flag {
        "lock" => Some(&mut options.session.lock),
        "copy" => Some(&mut options.session.copy),
        "cold" => Some(&mut options.cold),
        "profile" => Some(&mut options.bench.profile),
        "json" => Some(&mut options.json),
        _ => None,
    };
    if let Some(switch) = switch {
        *switch = true;
        return Ok(());
    }
    let raw = parser
        .value()
        .map_err(|e| match flags().find(|known| known.name == flag) {
            Some(known) => UsageError(format!("--{flag} lacks its value, as in --{flag} {}", known.value)),
            None => UsageError(e.to_string()),
        })?;
    match flag {
        "input" => options.input.file = Some(PathBuf::from(raw)),
        "texts" => options.texts.file = Some(PathBuf::from(raw)),
        "output" => options.output = Some(PathBuf::from(raw)),
        "socket" => options.serve.socket = Some(PathBuf::from(raw)),
        "tokenizer" => options.serve.tokenizer = Some(PathBuf::from(raw)),
        _ => {
            let text = raw.string().map_err(|e| UsageError(format!("--{flag}: {e}")))?;
            set_text(flag, command, options, &text)
                .map_err(|wanted| UsageError(format!("--{flag} {text:?}: {wanted}")))?;
        }
    }
    Ok(())
}

/// On failure, what would have been right.
fn set_text(flag: &str, command: Command, options: &mut Options, text: &str) -> Result<(), String> {
    let positive = |most: usize| match text.parse::<usize>() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("a whole number from 1 to {most} is needed")),
    };
    // Each timed run is remembered for the percentiles.
    const MOST_RUNS: usize = 10_000_000;
    match flag {
        "text" => options.texts.text.push(text.to_string()),
        "pair" => options.texts.pair.push(text.to_string()),
        "ids" => {
            let ids = text
                .split(',')
                .map(|id| id.trim().parse::<i64>())
                .collect::<Result<Vec<_>, _>>();
            options.input.ids =
                Some(ids.map_err(|_| "token ids are whole numbers with commas between, like 2,17,3".to_string())?);
        }
        "seq" => options.input.seq = Some(positive(1 << 24)?),
        "batch" if command == Bench => options.input.batch = Some(positive(1024)?),
        "threads" => options.session.threads = Some(positive(256)?),
        "kernel" => options.session.kernel = Some(text.to_string()),
        "runs" => options.bench.runs = Some(positive(MOST_RUNS)? as u32),
        "warmup" => {
            options.bench.warmup = Some(match text {
                "0" => 0,
                _ => positive(MOST_RUNS)? as u32,
            });
        }
        "sha256" => {
            let digest = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            let digest = digest.then(|| text.to_ascii_lowercase());
            options.sha256 = Some(digest.ok_or("64 hexadecimal digits are needed, as sha256sum prints them")?);
        }
        "max-ram" => options.bench.max_ram = Some(ram(text)?),
        "spread" => {
            let percent = text.parse::<f64>().ok().filter(|p| (0.01..=100.0).contains(p));
            options.bench.spread_percent = Some(percent.ok_or("a percentage from 0.01 to 100 is needed")?);
        }
        "time" => {
            let seconds = text.parse::<f64>().ok().filter(|s| (0.001..=86_400.0).contains(s));
            options.bench.seconds = Some(seconds.ok_or("seconds are needed, up to a day (86400)")?);
        }
        "pin" => {
            let cores = text
                .split(',')
                .map(|core| core.trim().parse::<u32>().ok().filter(|&c| c < 1024));
            options.pin = Some(
                cores
                    .collect::<Option<Vec<_>>>()
                    .ok_or("core numbers from 0 are needed, with commas between, like 2,3")?,
            );
        }
        "max-p95" => {
            let ms = text.parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms >= 0.0);
            options.bench.max_p95_ms = Some(ms.ok_or("milliseconds are needed, like 120 or 0.5")?);
        }
        // Of the server.
        _ => serve_flags::set(&mut options.serve, flag, text, positive, || size(text))?,
    }
    Ok(())
}

/// The option nearest to a wrong one, of the command's own where it is known.
fn meant(long: &str, command: Option<Command>) -> String {
    let of = |flag: &&Flag| command.is_none_or(|command| flag.takes.contains(&command));
    let known = flags().filter(of).map(|flag| flag.name);
    nearest(long, known).map_or(String::new(), |name| format!("did you mean --{name}? "))
}

/// A number of bytes: "12MiB" is 12 · 1024², "12MB" 12 · 1000², a bare number bytes.
fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "a size is needed, like 24MiB (of 1024), 24MB (of 1000), or bytes".to_string())
}

/// A size of RAM: one without a unit that holds no program had one in mind.
fn ram(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < 1 << 10 => Err(format!(
            "{bytes} bytes hold no program; with a unit it is {bytes}MiB or {bytes}KiB"
        )),
        bytes => Ok(bytes),
    }
}

fn check(command: Command, options: &Options) -> Result<(), UsageError> {
    let refuse = |text: &str| Err(UsageError(text.to_string()));
    if command == Ask && options.file.is_some() {
        return refuse("ask takes no FILE: the server has the model; --socket names the server");
    }
    if options.file.is_none() && command != Info && command != Ask {
        return refuse(&format!("{} needs a model FILE", command.name()));
    }
    if options.file.is_none() && (options.session.copy || options.sha256.is_some()) {
        return refuse("--copy and --sha256 are about a model FILE; name it");
    }
    if options.session.lock && options.session.copy {
        return refuse("--lock keeps the file's own pages in RAM, --copy makes others of them; give one");
    }
    if options.input.ids.is_some() && options.input.file.is_some() {
        return refuse("--ids and --input are both given; give one");
    }
    let texts = &options.texts;
    if texts.given() {
        let other = [
            ("--ids", options.input.ids.is_some()),
            ("--input", options.input.file.is_some()),
            ("--seq", options.input.seq.is_some()),
            ("--output", options.output.is_some()),
        ];
        if let Some((name, _)) = other.into_iter().find(|(_, given)| *given) {
            return refuse(&format!("a text and {name} are both given; give one"));
        }
        if !texts.text.is_empty() && texts.file.is_some() {
            return refuse("--text and --texts are both given; give one");
        }
    } else if !texts.pair.is_empty() {
        return refuse("--pair goes with --text");
    } else if command == Run && options.serve.tokenizer.is_some() {
        return refuse("--tokenizer goes with --text");
    }
    if options.input.batch.is_some() && options.input.file.is_some() {
        return refuse("--batch repeats one sequence; the tensors of --input have their own");
    }
    if options.input.seq.is_some() && options.input.file.is_some() {
        return refuse("--seq pads --ids or makes up a sequence; the tensors of --input have their own length");
    }
    if let (Some(ids), Some(seq)) = (&options.input.ids, options.input.seq)
        && ids.len() > seq
    {
        return refuse(&format!("--ids has {} tokens, more than --seq {seq}", ids.len()));
    }
    let (socketless, default) = (options.serve.socket.is_none(), Settings::default());
    let Settings {
        mode, timeout, clients, ..
    } = options.serve;
    // A socket that is handed over has its mode already, and clients all the same.
    let others = (timeout, clients) != (default.timeout, default.clients) && !passed();
    if command == Serve && socketless && (mode != default.mode || others) {
        return refuse("--mode, --timeout and --clients go with --socket");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|e| e.0)
    }

    #[test]
    fn a_whole_bench_line() {
        let line = "bench m.onnx --ids 2,17,3 --seq 16 --runs 7 --warmup 0 --threads 2 --max-ram 24MiB --max-p95 12.5 --lock --json";
        let expected = Options {
            file: Some("m.onnx".into()),
            json: true,
            input: InputSource {
                ids: Some(vec![2, 17, 3]),
                seq: Some(16),
                ..InputSource::default()
            },
            bench: BenchOptions {
                runs: Some(7),
                warmup: Some(0),
                max_ram: Some(24 << 20),
                max_p95_ms: Some(12.5),
                ..BenchOptions::default()
            },
            session: SessionOptions {
                threads: Some(2),
                lock: true,
                ..SessionOptions::default()
            },
            ..Options::default()
        };
        assert_eq!(parsed(line), Ok(Invocation::Do(Bench, Box::new(expected))));
        let out = parsed("run --input=a.safetensors m.onnx --output b.safetensors").unwrap();
        let Invocation::Do(Run, out) = out else {
            panic!("{out:?}")
        };
        assert!(out.input.file.is_some() && out.output.is_some() && out.file.is_some());
        assert_eq!(parsed("info"), Ok(Invocation::Do(Info, Box::default())));
        assert_eq!(parsed("bench --help"), Ok(Invocation::Help(Some(Bench))));
        assert_eq!(parsed("--help"), Ok(Invocation::Help(None)));
        for command in [None, Some(Bench), Some(Serve)] {
            let text = help(command);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        }
        assert!(help(Some(Bench)).contains("--runs") && !help(Some(Bench)).contains("--socket"));
        assert_eq!(parsed("-V"), Ok(Invocation::Version));
    }

    #[test]
    fn every_wrong_line_says_what_is_right() {
        let cases = [
            ("", "a command is needed"),
            ("race m.onnx", "info, run, bench, serve or ask"),
            ("ask m.onnx --text a", "takes no FILE"),
            ("ask --text a --texts b", "give one"),
            ("ask --text a --ids 3", "both given"),
            ("ask --pair a", "--pair goes with --text"),
            ("ask --timeout never", "seconds are needed"),
            ("--json bench m.onnx", "comes before --json"),
            ("bench", "needs a model FILE"),
            ("run a b", "one FILE at a time"),
            ("run m --runs 3", "--runs means nothing to run"),
            ("run m --frobnicate", "no option --frobnicate"),
            ("run m --sqe 3", "no option --sqe; did you mean --seq?"),
            ("bench m --max_ram 3", "did you mean --max-ram?"),
            ("serve m --sockte s", "did you mean --socket?"),
            ("bnech m", "did you mean bench?"),
            ("run m -x", "no option -x"),
            ("run m --ids", "--ids lacks its value, as in --ids "),
            ("run m --ids 2,,3", "token ids are"),
            ("run m --ids 99999999999999999999", "token ids are"),
            ("run m --ids 1 --input x", "give one"),
            ("run m --input x --seq 3", "their own length"),
            ("run m --ids 1,2,3 --seq 2", "3 tokens, more than --seq 2"),
            ("run m --text a --ids 2,3", "a text and --ids are both given"),
            ("run m --texts f --output o", "a text and --output"),
            ("run m --texts f --text a", "give one"),
            ("run m --pair a", "--pair goes with --text"),
            ("run m --tokenizer t", "--tokenizer goes with --text"),
            ("bench m --text a", "--text means nothing to bench"),
            ("bench m --seq 0", "from 1 to"),
            ("bench m --runs -1", "from 1 to"),
            ("bench m --threads 5000", "from 1 to 256"),
            ("bench m --max-ram lots", "a size is needed"),
            ("bench m --max-ram 24", "24MiB"),
            ("bench m --max-p95 nan", "milliseconds"),
            ("bench m --max-p95 -3", "milliseconds"),
            ("bench m --lock=yes", "unexpected"),
            ("serve m --lock --copy", "give one"),
            ("info --copy", "name it"),
            ("info --sha256 00", "64 hexadecimal digits"),
            ("run m --sha256 =", "64 hexadecimal digits"),
            ("bench m --spread 0", "a percentage"),
            ("bench m --time forever", "seconds are needed"),
            ("bench m --pin 0-3", "core numbers"),
            ("info m --cold", "--cold means nothing to info"),
            ("serve", "needs a model FILE"),
            ("serve m --json", "--json means nothing to serve"),
            ("bench m --socket s", "--socket means nothing to bench"),
            ("serve m --socket s --mode 888", "octal permissions"),
            ("serve m --mode 0660", "go with --socket"),
            ("serve m --batch 0", "from 1 to"),
            ("serve m --linger -1", "milliseconds"),
            ("serve m --max-line 3", "64 bytes to 1GiB"),
            ("serve m --socket s --timeout soon", "seconds are needed"),
        ];
        for (line, expected) in cases {
            let message = parsed(line).expect_err(line);
            assert!(message.contains(expected), "{line}: {message}");
            assert!(!message.contains('\n'), "{line}: {message}");
        }
    }

    #[test]
    fn sizes_of_1000_and_of_1024_differ() {
        let cases = [
            ("0", Some(0)),
            ("123", Some(123)),
            ("12MB", Some(12_000_000)),
            ("12MiB", Some(12 << 20)),
            ("12 MiB", Some(12 << 20)),
            ("1.5KiB", Some(1536)),
            ("12mib", Some(12 << 20)),
            ("-1", None),
            ("", None),
            ("MiB", None),
            ("12 apples", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_help_names_every_option() {
        let help = help(None);
        assert!(flags().all(|f| help.contains(&format!("--{}", f.name))));
        assert!(!help.contains("default )") && !help.contains("{}"), "{help}");
    }
}
