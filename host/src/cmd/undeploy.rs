//! `thimble undeploy`: takes the server that `deploy --serve` left off a board, or what nothing uses any more.

use super::ask::link;
use super::deploy::directory;
use super::outcome::Outcome;
use crate::boards::ssh::link::Sockets;
use crate::boards::ssh::serving::{self, Removal};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::terminal::printable;

#[derive(Debug, clap::Args)]
pub struct UndeployArgs {
    /// Clear this board, named as ssh takes it: USER@HOST, USER@HOST:PORT, or a name of your ssh configuration
    #[arg(value_name = "USER@HOST")]
    pub host: String,
    /// Remove also the measuring unit of --keep and all that deploys put into their directory
    #[arg(long, conflicts_with = "old")]
    pub all: bool,
    /// Remove only models of earlier deploys that nothing uses; the server goes on
    #[arg(long)]
    pub old: bool,
    /// Look for deployed files in this directory on the board, relative to the user's home
    #[arg(long, value_name = "DIR", default_value = ".thimble")]
    pub dir: String,
    /// Connect to this port [default: ssh's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Use this ssh configuration instead of yours (ports, keys, jump hosts)
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &UndeployArgs) -> Result<Outcome> {
    directory(&args.dir)?;
    let sockets = Sockets::new(&std::env::temp_dir());
    let link = link(&args.host, args.port, args.ssh_config.as_ref(), &sockets)?;
    let removal = match (args.all, args.old) {
        (true, _) => Removal::All,
        (_, true) => Removal::Old,
        _ => Removal::Server,
    };
    let removed = serving::undeploy(&link, &args.dir, removal).with_context(|| args.host.clone())?;
    if args.json {
        let told = json!({"schema": ANSWER_SCHEMA, "board": args.host, "removed": removed});
        return Ok(Outcome::yes(format!("{told:#}\n")));
    }
    if removed.is_empty() {
        return Ok(Outcome::yes(format!("{}: nothing of that kind is there\n", args.host)));
    }
    let each = removed
        .iter()
        .map(|path| format!("{}: removed {}\n", args.host, printable(path)));
    Ok(Outcome::yes(each.collect::<String>()))
}
