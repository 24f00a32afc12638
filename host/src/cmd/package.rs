//! `thimble package`: an arm64 Debian package that apt, Ansible or any other means can roll out to a fleet.

use super::args::PayloadArgs;
use super::outcome::Outcome;
use crate::boards::device_binary::{device_program, whole};
use crate::boards::package::{Control, deb, payload};
use crate::fs::atomic;
use crate::models::model_file::File;
use crate::render::text::exact;
use anyhow::Result;
use std::path::PathBuf;
use thimble_text::tokenizer_beside;

#[derive(Debug, clap::Args)]
pub struct PackageArgs {
    /// Package this thimble file
    pub file: PathBuf,
    /// Write the package to this file
    #[arg(short, long, value_name = "OUT.deb")]
    pub output: PathBuf,
    #[command(flatten)]
    pub payload: PayloadArgs,
    /// Name the package
    #[arg(long, default_value = "thimble-model")]
    pub name: String,
    /// Set the package version
    #[arg(long, value_name = "V", default_value = env!("CARGO_PKG_VERSION"))]
    pub release: String,
    /// Name the maintainer, as Debian writes it
    #[arg(long, value_name = "NAME <MAIL>")]
    pub maintainer: String,
    /// Describe the model in one line
    #[arg(long, default_value = "ALBERT model with the program that runs and measures it")]
    pub description: String,
}

pub fn run(args: &PackageArgs) -> Result<Outcome> {
    let file = File::for_board(&args.file)?;
    let tokenizer = tokenizer_beside(&args.file);
    let named = args.payload.device_program.as_deref();
    atomic::refuse_inputs(&args.output, [args.file.as_path(), &tokenizer].into_iter().chain(named))?;
    let program = device_program(named)?;
    // Where nobody named one, it is only known now.
    atomic::refuse_inputs(&args.output, [program.as_path()])?;
    let max_ram = args.payload.max_ram.map(|r| r.as_u64());
    let payload = payload(&args.file, file.bytes()?, file.tokenizer()?, whole(&program)?, max_ram)?;
    let bytes = deb(
        &payload,
        &Control {
            name: &args.name,
            version: &args.release,
            maintainer: &args.maintainer,
            description: &args.description,
        },
    )?;
    atomic::write_whole(&args.output, &bytes)?;
    let mut text = format!("{}  {}\n", args.output.display(), exact(bytes.len() as u64));
    for file in &payload.files {
        text += &format!("  /{}  {}\n", file.path, exact(file.bytes.len() as u64));
    }
    Ok(Outcome::yes(text))
}
