//! `thimble deploy`: one board, or all of an inventory, over ssh; the report is compared with the target, the limits and the
//! board's last report, and added to the history.

mod told;

use super::args::{limit_too_low, milliseconds, ram, without_tokenizer};
use super::outcome::Outcome;
use crate::boards::cost_model::{need, seq_of, serving};
use crate::boards::device_binary::{Found, chosen, for_boards, head, largest_page, locate};
use crate::boards::package::{PROGRAM, UnitOptions};
use crate::boards::profiles;
use crate::boards::reports::{self, Entry};
use crate::boards::ssh::inventory::{self, Host};
use crate::boards::ssh::link::{Link, Sockets};
use crate::boards::ssh::{Cargo, Cargoes, Item, Order, deploy, item};
use crate::boards::tools;
use crate::fs::atomic;
use crate::models::model_file::File;
use crate::render::progress::Bar;
use crate::render::text::remark;
use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thimble_device::bench::DEFAULT_RUNS;
use thimble_device::image::mmap::ModelFile;
use thimble_device::session::DEFAULT_SEQ;
use thimble_shared::board::architecture::Architecture;
use thimble_shared::board::target::Target;
use thimble_shared::files;
use thimble_shared::terminal::acts;
use thimble_text::tokenizer_beside;
use told::Told;

#[derive(Debug, clap::Args)]
pub struct DeployArgs {
    /// Deploy this thimble file
    pub file: PathBuf,
    /// Name the board (see thimble targets), or give the path of a target file
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Connect to this host, as ssh takes it: USER@HOST, USER@HOST:PORT, or a name of your ssh configuration
    #[arg(long, value_name = "USER@HOST")]
    pub to: Option<String>,
    /// Connect to this port [default: ssh's own]
    #[arg(long, value_name = "N", conflicts_with = "inventory", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Deploy to every host of an Ansible inventory (INI); thimble_target=NAME names a host's board
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    pub inventory: Option<PathBuf>,
    /// Put the files in this directory on the board, relative to the user's home
    #[arg(long, value_name = "DIR", default_value = ".thimble")]
    pub dir: String,
    /// Use this ssh configuration instead of yours (ports, keys, jump hosts)
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Exit 1 when the program's peak memory exceeds this
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    pub max_ram: Option<ByteSize>,
    /// Exit 1 when the 95th percentile of the latency exceeds this
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub max_p95: Option<f64>,
    #[arg(long, value_name = "N", help = format!("Measure with this many tokens [default: {DEFAULT_SEQ}]"), value_parser = clap::value_parser!(u32).range(1..))]
    pub seq: Option<u32>,
    #[arg(long, value_name = "N", help = format!("Time this many runs [default: {DEFAULT_RUNS}]"), value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub runs: Option<u32>,
    /// Use this many threads on the board [default: its cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Measure with the model read into RAM instead of mapped (thimble-device --copy)
    #[arg(long)]
    pub copy: bool,
    /// Install a systemd unit that measures the board at every boot
    #[arg(long)]
    pub keep: bool,
    /// Leave a server on the board that answers at /run/thimble.sock (a user's own without root), old or new model, never half
    #[arg(long)]
    pub serve: bool,
    /// Remove models of earlier deploys that nothing uses
    #[arg(long)]
    pub clear_old: bool,
    /// Append the report to this history, one JSON line each
    #[arg(long, value_name = "FILE", default_value = "thimble-reports.jsonl")]
    pub history: PathBuf,
    /// Use this thimble-device [default: the one for what the board runs, found as docs/commands.md says]
    #[arg(long, value_name = "FILE")]
    pub device_program: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Boards done at the same time.
const AT_ONCE: usize = 8;

pub fn run(args: &DeployArgs) -> Result<Outcome> {
    if let Some(lacking) = lacking(args) {
        bail!(lacking);
    }
    tools::need(&["ssh"])?;
    let file = File::for_board(&args.file)?;
    let (cargoes, seq) = cargoes(args, &file)?;
    let bench = bench_options(args, seq);
    directory(&args.dir)?;
    if let Some(config) = &args.ssh_config {
        readable(config).with_context(|| format!("--ssh-config {}", config.display()))?;
    }
    let mut order = Order {
        dir: &args.dir,
        bench: &bench,
        max_ram: args.max_ram.map(|r| r.as_u64()),
        keep: args.keep,
        serve: args.serve,
        clear_old: args.clear_old,
        stages: false,
    };
    // What cannot be kept afterwards must not be measured first.
    let history = history(args, &cargoes)?;
    let hosts = hosts(args)?;
    // A wrong target or address must be known before the first board is touched.
    let sockets = Sockets::new(&std::env::temp_dir());
    let jobs = jobs(args, hosts, &sockets)?;
    order.stages = jobs.len() == 1;
    let done = deploy_all(args, &jobs, &cargoes, &order, &history);
    let mut told = Told::default();
    for one in done.into_values() {
        told.join(one);
    }
    Ok(told.outcome(args.json, jobs.len()))
}

/// What the command line and thimble.toml do not say: which boards, and what they are.
fn lacking(args: &DeployArgs) -> Option<&'static str> {
    match (&args.inventory, &args.to, &args.target) {
        (None, None, _) => Some(
            "give --to USER@HOST and --target NAME, or --inventory FILE for several boards; thimble.toml may say to, target and hosts",
        ),
        (None, Some(_), None) => Some(
            "give --target NAME, the board that it is (thimble targets lists them; thimble targets --probe USER@HOST asks it)",
        ),
        _ => None,
    }
}

/// Refuses what is no directory on the board.
pub fn directory(dir: &str) -> Result<()> {
    if dir.is_empty() || dir.ends_with(char::is_whitespace) || dir.chars().any(|c| acts(c) || c == '\\') {
        bail!(
            "--dir {dir:?}: name a directory on the board, without control characters, backslashes or a blank at its end"
        );
    }
    Ok(())
}

/// The device programs that boards may need: the one named, or one for each architecture that there is one for. Without any, the
/// error is about the one that is expected to be needed.
fn programs(args: &DeployArgs, usual: Architecture) -> Result<(Vec<Found>, bool)> {
    if let Some(named) = chosen(args.device_program.as_deref())? {
        return Ok((vec![named], true));
    }
    let others = Architecture::ALL.into_iter().filter(|one| *one != usual);
    let others: Vec<Found> = others.flat_map(|one| locate(None, one)).collect();
    match locate(None, usual) {
        Ok(found) => Ok(([found].into_iter().chain(others).collect(), false)),
        Err(_) if !others.is_empty() => Ok((others, false)),
        Err(missing) => Err(missing.into()),
    }
}

/// What boards are sent, and the tokens they are measured with.
fn cargoes(args: &DeployArgs, file: &File) -> Result<(Cargoes, usize)> {
    let graph = &file.artifact.graph;
    let target = args.target.as_deref().map(profiles::find).transpose()?;
    let usual = target.map_or(Architecture::Aarch64, |target| target.architecture());
    let (programs, named) = programs(args, usual)?;
    programs.iter().take(1).for_each(Found::tell);
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == PROGRAM {
        bail!(
            "{}: rename it: the device program has this name on the board",
            args.file.display()
        );
    }
    let model = item(file.map.file().clone(), name.clone(), "644")?;
    let seq = seq_of(&graph.config, args.seq)?;
    let mut texts = None;
    let mut tokenizer = None;
    if let Some(path) = file.tokenizer_path() {
        texts = Some(thimble_text::read(path)?);
        let name = tokenizer_beside(Path::new(&name)).display().to_string();
        let found = item(Arc::new(ModelFile::open(path)?), name, "644")?;
        file.is_its_tokenizer(&found.sha256)?;
        tokenizer = Some(found);
    }
    // The bench computes token ids, the server splits texts.
    let need = match args.serve {
        true => serving(graph, model.bytes, seq, texts.as_deref()),
        false => need(&graph.config, Some(&graph.formats), model.bytes, seq),
    };
    if args.serve {
        let units = UnitOptions {
            max_ram: args.max_ram.map(|ram| ram.as_u64()),
            ..UnitOptions::default()
        };
        // Half of a board's RAM is held against it when the board is looked at.
        limit_too_low(&units, need);
        if tokenizer.is_none() {
            without_tokenizer(&args.file);
        }
    }
    let each = programs.iter().map(|program| {
        let (program, architecture, largest_page) = opened(program)?;
        Ok(Cargo {
            files: [program, model.clone()].into_iter().chain(tokenizer.clone()).collect(),
            model: name.clone(),
            need: if args.copy { need.copied() } else { need },
            architecture,
            largest_page,
        })
    });
    let each = each.collect::<Result<Vec<_>>>()?;
    Ok((Cargoes { each, named, usual }, seq))
}

/// A device program that is held open: from here on it is this file, whatever bears its name by then, and what is looked at is
/// what is sent. What it is for, and the largest page it can be mapped with.
fn opened(program: &Found) -> Result<(Item, Architecture, Option<u64>)> {
    let program = ModelFile::open(&program.path)?;
    let head = head(program.file()).with_context(|| program.path().display().to_string())?;
    let architecture = for_boards(program.path(), &head)?;
    Ok((
        item(Arc::new(program), PROGRAM.into(), "755")?,
        architecture,
        largest_page(&head),
    ))
}

/// What the bench on the board is told.
fn bench_options(args: &DeployArgs, seq: usize) -> Vec<String> {
    let mut bench = vec!["--seq".to_string(), seq.to_string()];
    let mut option = |flag: &str, value: Option<String>| {
        bench.extend(value.into_iter().flat_map(|value| [flag.to_string(), value]));
    };
    option("--runs", args.runs.map(|n| n.to_string()));
    option("--threads", args.threads.map(|n| n.to_string()));
    option("--max-ram", args.max_ram.map(|r| r.as_u64().to_string()));
    if args.copy {
        bench.push("--copy".to_string());
    }
    bench
}

/// The reports so far, in a history that can be written to and is no input.
fn history(args: &DeployArgs, cargoes: &Cargoes) -> Result<Vec<Entry>> {
    let named = [&args.inventory, &args.ssh_config].into_iter().flatten();
    let files = cargoes.each.iter().flat_map(|cargo| &cargo.files);
    let inputs = files.map(|f| f.file.path()).chain(named.map(PathBuf::as_path));
    atomic::refuse_inputs(
        &args.history,
        inputs.chain(args.target.as_deref().and_then(profiles::file)),
    )?;
    reports::writable(&args.history)?;
    Ok(reports::history(&args.history)?)
}

/// The boards that are named, at least one.
fn hosts(args: &DeployArgs) -> Result<Vec<Host>> {
    let hosts = match (&args.inventory, &args.to) {
        (Some(path), _) => inventory::read(path)?,
        (None, Some(to)) => {
            let (to, port) = address(to, args.port)?;
            vec![Host {
                name: to.clone(),
                to,
                port,
                target: None,
            }]
        }
        (None, None) => bail!("give --to or --inventory"),
    };
    if hosts.is_empty() {
        bail!("the inventory names no host");
    }
    Ok(hosts)
}

/// A board, what it is held against, and the way to it.
type Job = (Host, Target, Link);

/// Each host with its target and a link to it.
fn jobs(args: &DeployArgs, hosts: Vec<Host>, sockets: &Sockets) -> Result<Vec<Job>> {
    hosts
        .into_iter()
        .enumerate()
        .map(|(at, host)| {
            let named = host.target.as_deref().or(args.target.as_deref());
            let named =
                named.with_context(|| format!("{}: no thimble_target in the inventory and no --target", host.name))?;
            let target = profiles::find(named).with_context(|| host.name.clone())?;
            atomic::refuse_inputs(&args.history, profiles::file(named))?;
            let config = args.ssh_config.clone();
            let link = Link::new(&host.to, host.port, config, sockets.socket(at)).with_context(|| host.name.clone())?;
            Ok((host, target, link))
        })
        .collect()
}

/// Deploys to all boards, several at a time; what came of each, by its place in the inventory.
fn deploy_all(
    args: &DeployArgs,
    jobs: &[Job],
    cargoes: &Cargoes,
    order: &Order,
    history: &[Entry],
) -> BTreeMap<usize, Told> {
    let several = jobs.len() > 1;
    // On a terminal, what is being done; elsewhere a line a stage, or of several boards a line for each that is finished.
    let bar = Bar::spinner("");
    // What came of each board, by its place in the inventory.
    let done = Mutex::new(BTreeMap::new());
    let next = Mutex::new(0..jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..jobs.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some(at) = next.lock().ok().and_then(|mut n| n.next()) {
                    let (host, target, link) = &jobs[at];
                    let result = deploy(link, cargoes, order);
                    link.reset();
                    // Kept and said as each board finishes: whoever ends this before the last loses no measurement.
                    if let Ok(mut done) = done.lock() {
                        let mut told = Told::new(several, cargoes.take_texts());
                        told.add(host, target, result, history, args);
                        if several {
                            remark(&format!(
                                "{}: {}, {} of {} done",
                                host.name,
                                told.word(),
                                done.len() + 1,
                                jobs.len()
                            ));
                        }
                        done.insert(at, told);
                    }
                }
            });
        }
    });
    drop(bar);
    done.into_inner().unwrap_or_default()
}

/// An address and the port it names or `--port` does. An IPv6 address has colons of its own; in brackets it may have a port.
pub fn address(to: &str, port: Option<u16>) -> Result<(String, Option<u16>)> {
    if to.starts_with("ssh://") {
        return Ok((to.to_string(), port));
    }
    let host_at = to.rfind('@').map_or(0, |at| at + 1);
    let (user, host) = to.split_at(host_at);
    let (host, own) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match host.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (host, None),
        },
    };
    let own = own.map(|text| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => bail!("--to {to}: '{text}' is no port"),
    });
    match (own.transpose()?, port) {
        (Some(own), Some(port)) if own != port => bail!("--to {to} and --port {port} name two ports"),
        (own, port) => Ok((format!("{user}{host}"), own.or(port))),
    }
}

/// Whether ssh can read its configuration there each time it is started, which a pipe gives only once. "none" and /dev/null are
/// how a user tells ssh to read none.
pub fn readable(config: &Path) -> std::io::Result<()> {
    if config == Path::new("none") || atomic::is_null(config) {
        return Ok(());
    }
    files::regular(config)?;
    std::fs::File::open(config).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_end_in_a_port() {
        let cases = [
            ("pi@kitchen", None, Ok(("pi@kitchen", None))),
            ("pi@kitchen:2222", None, Ok(("pi@kitchen", Some(2222)))),
            ("kitchen:2222", Some(2222), Ok(("kitchen", Some(2222)))),
            ("kitchen", Some(23), Ok(("kitchen", Some(23)))),
            ("pi@fe80::1%eth0", None, Ok(("pi@fe80::1%eth0", None))),
            ("pi@[fe80::1]:22", None, Ok(("pi@fe80::1", Some(22)))),
            ("ssh://pi@kitchen:2222", None, Ok(("ssh://pi@kitchen:2222", None))),
            ("kitchen:22", Some(23), Err("name two ports")),
            ("kitchen:0", None, Err("'0' is no port")),
            ("kitchen:x", None, Err("'x' is no port")),
        ];
        for (to, port, want) in cases {
            match (address(to, port), want) {
                (Ok((to, port)), Ok(want)) => assert_eq!((to.as_str(), port), want),
                (Err(e), Err(want)) => assert!(e.to_string().contains(want), "{e}"),
                (found, _) => panic!("{to}: {found:?}"),
            }
        }
    }
}
