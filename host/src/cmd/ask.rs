//! `thimble ask`: asks the server that a board has (`deploy --serve`, `package`, `install`), over ssh and with the board's own program.

use super::deploy::{address, readable};
use super::outcome::Outcome;
use crate::boards::ssh::link::{Link, Sockets};
use crate::boards::ssh::serving::{self, NO_SERVER};
use crate::boards::tools;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::path::PathBuf;
use thimble_shared::terminal::lines;

#[derive(Debug, clap::Args)]
pub struct AskArgs {
    /// Ask this board, named as ssh takes it: USER@HOST, USER@HOST:PORT, or a name of your ssh configuration
    #[arg(value_name = "USER@HOST")]
    pub host: String,
    /// Ask about this text; without any, each line of stdin is asked
    #[arg(long)]
    pub text: Vec<String>,
    /// Add a second text: the context of a question; for multiple choice, give it once per choice
    #[arg(long)]
    pub pair: Vec<String>,
    /// Print the server's answer, one JSON object for each text
    #[arg(long)]
    pub json: bool,
    /// Wait this long for an answer [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: Option<u32>,
    /// Connect to this port [default: ssh's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Use this ssh configuration instead of yours (ports, keys, jump hosts)
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
}

/// A link to the board that `to` names.
pub fn link(to: &str, port: Option<u16>, config: Option<&PathBuf>, sockets: &Sockets) -> Result<Link> {
    tools::need(&["ssh"])?;
    if let Some(config) = config {
        readable(config).with_context(|| format!("--ssh-config {}", config.display()))?;
    }
    let (to, port) = address(to, port)?;
    Ok(Link::new(&to, port, config.cloned(), sockets.socket(0))?)
}

pub fn run(args: &AskArgs) -> Result<Outcome> {
    let sockets = Sockets::new(&std::env::temp_dir());
    let link = link(&args.host, args.port, args.ssh_config.as_ref(), &sockets)?;
    let mut words = Vec::new();
    for (option, values) in [("--text", &args.text), ("--pair", &args.pair)] {
        for value in values {
            // One word: a text may begin with a dash.
            words.push(format!("{option}={value}"));
        }
    }
    if let Some(seconds) = args.timeout {
        words.extend(["--timeout".to_string(), seconds.to_string()]);
    }
    if args.json {
        words.push("--json".into());
    }
    let mut input = Vec::new();
    if args.text.is_empty() {
        // ssh would send no byte before the end anyway: what is asked is all there first.
        words.push("--texts=-".into());
        std::io::stdin().lock().read_to_end(&mut input).context("stdin")?;
    }
    let told = serving::ask(&link, &words, &mut input.as_slice())?;
    let said = told.stderr.trim_start_matches("thimble-device: ").to_string();
    match told.code {
        0 => Ok(Outcome::yes(lines(&told.stdout).to_string())),
        1 => {
            let mut outcome = Outcome::no(lines(&told.stdout).to_string());
            outcome.error = Some(format!("{}: {said}", args.host)).filter(|_| !args.json);
            Ok(outcome)
        }
        NO_SERVER => bail!(
            "{}: no server was deployed there; thimble deploy MODEL --to {} --target NAME --serve starts one",
            args.host,
            args.host
        ),
        code => bail!("{}: ended with {code}: {said}", args.host),
    }
}
