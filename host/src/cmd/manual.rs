//! `thimble completions` and `thimble man`: what shells and man read of the command line, made of the same definition.

use super::outcome::Outcome;
use crate::fs::atomic;
use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell to complete in
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each command there, which must exist [default: print the page of thimble itself]
    pub dir: Option<PathBuf>,
}

/// The script that a shell sources.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "thimble", &mut script);
    Outcome::yes(String::from_utf8_lossy(&script).into_owned())
}

/// One page, or all of them as files.
///
/// # Errors
/// Where a page cannot be written.
pub fn man(args: &ManArgs, mut command: Command) -> Result<Outcome> {
    command.build();
    let Some(dir) = &args.dir else {
        return Ok(Outcome::yes(
            String::from_utf8_lossy(&page("thimble", command)?).into_owned(),
        ));
    };
    atomic::takes_files(dir).with_context(|| dir.display().to_string())?;
    let mut written = Vec::new();
    for one in command.get_subcommands().cloned() {
        if one.get_name() != "help" && !one.is_hide_set() {
            written.push(write(dir, &format!("thimble-{}", one.get_name()), one)?);
        }
    }
    written.push(write(dir, "thimble", command)?);
    Ok(Outcome::yes(written.concat()))
}

fn write(dir: &Path, name: &str, command: Command) -> Result<String> {
    let path = dir.join(format!("{name}.1"));
    atomic::write_whole(&path, &page(name, command)?)?;
    Ok(format!("{}\n", path.display()))
}

fn page(name: &str, command: Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).title(name).render(&mut page)?;
    Ok(page)
}
