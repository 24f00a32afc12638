//! `thimble package`: a Debian package that apt, Ansible or any other means can roll out to a fleet.

use super::args::{PayloadArgs, limit_too_low, without_tokenizer};
use super::outcome::Outcome;
use crate::boards::cost_model::{seq_of, serving};
use crate::boards::device_binary::{chosen, device_program, whole};
use crate::boards::package::{Control, UnitOptions, deb, payload};
use crate::fs::atomic;
use crate::fs::subprocess::tool;
use crate::models::model_file::File;
use crate::render::text::{exact, remark};
use anyhow::Result;
use std::path::PathBuf;
use thimble_shared::board::architecture::Architecture;
use thimble_shared::terminal::acts;
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
    /// Package for what the boards run: arm64 or armhf [default: that of --device-program, else arm64]
    #[arg(long, value_name = "NAME", value_parser = architecture)]
    pub architecture: Option<Architecture>,
    /// Name the package
    #[arg(long, default_value = "thimble-model")]
    pub name: String,
    /// Set the package version
    #[arg(long, value_name = "V", default_value = env!("CARGO_PKG_VERSION"))]
    pub release: String,
    /// Name the maintainer, as Debian writes it [default: DEBFULLNAME and DEBEMAIL, what git says, or the user at this host]
    #[arg(long, value_name = "NAME <MAIL>")]
    pub maintainer: Option<String>,
    /// Describe the model in one line
    #[arg(long, default_value = "ALBERT model with the program that answers with it")]
    pub description: String,
}

/// An architecture by any of its names.
fn architecture(text: &str) -> Result<Architecture, String> {
    Architecture::of_name(text).ok_or_else(|| {
        let names = Architecture::ALL.map(|one| format!("{} ({})", one.debian(), one.words()));
        format!(
            "'{text}' is none that thimble-device is built for; write {}",
            names.join(" or ")
        )
    })
}

/// Who packages, by what the system knows: as Debian's own tools look for it, then git, then the user's name.
fn maintainer() -> String {
    let variable = |name: &str| std::env::var(name).ok();
    let git = |key: &str| -> Option<String> {
        let done = tool("git").args(["config", "--get", key]).output().ok()?;
        String::from_utf8(done.stdout).ok()
    };
    let user = || {
        variable("USER")
            .or_else(|| variable("LOGNAME"))
            .unwrap_or_else(|| "root".into())
    };
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_else(|_| "localhost".into());
    named(
        [variable("DEBFULLNAME"), git("user.name"), Some(user())],
        [
            variable("DEBEMAIL"),
            variable("EMAIL"),
            git("user.email"),
            Some(format!("{}@{}", user(), host.trim())),
        ],
    )
}

/// The first name and the first address that can stand in a package.
fn named<const N: usize, const M: usize>(names: [Option<String>; N], mails: [Option<String>; M]) -> String {
    let plain = |text: &String| !text.is_empty() && !text.chars().any(|c| acts(c) || "<>".contains(c));
    let first = |all: &mut dyn Iterator<Item = String>| all.map(|t| t.trim().to_string()).find(plain);
    let name = first(&mut names.into_iter().flatten()).unwrap_or_else(|| "thimble".into());
    let address = |mail: &String| mail.contains('@') && !mail.contains(char::is_whitespace);
    let mail = first(
        &mut mails
            .into_iter()
            .flatten()
            .filter(|mail| address(&mail.trim().to_string())),
    );
    format!("{name} <{}>", mail.unwrap_or_else(|| "root@localhost".into()))
}

pub fn run(args: &PackageArgs) -> Result<Outcome> {
    atomic::can_be_written(&args.output)?;
    let file = File::for_board(&args.file)?;
    let tokenizer = tokenizer_beside(&args.file);
    let named = args.payload.device_program.as_deref();
    atomic::refuse_inputs(&args.output, [args.file.as_path(), &tokenizer].into_iter().chain(named))?;
    let architecture = match args.architecture {
        Some(architecture) => architecture,
        None => chosen(named)?.map_or(Architecture::Aarch64, |found| found.architecture),
    };
    let program = device_program(named, architecture)?;
    // Where nobody named one, it is only known now.
    atomic::refuse_inputs(&args.output, [program.as_path()])?;
    let maintainer = args.maintainer.clone().unwrap_or_else(|| {
        let found = maintainer();
        remark(&format!(
            "note: the package's maintainer is {found}; --maintainer names another"
        ));
        found
    });
    let units = UnitOptions {
        by_digest: true,
        ..args.payload.units(None)
    };
    let (model, tokenizer) = (file.bytes()?, file.tokenizer()?);
    let graph = &file.artifact.graph;
    let seq = seq_of(&graph.config, None)?;
    if let Some(why) = limit_too_low(&units, serving(graph, model.len() as u64, seq, tokenizer.as_deref())) {
        return Ok(Outcome::no(format!("no: {why}\n")));
    }
    let takes_texts = tokenizer.is_some();
    let payload = payload(&args.file, model, tokenizer, whole(&program)?, &units)?;
    if !takes_texts {
        without_tokenizer(&args.file);
    }
    let bytes = deb(
        &payload,
        &Control {
            name: &args.name,
            version: &args.release,
            maintainer: &maintainer,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_has_several_names() {
        for name in ["armhf", "armv7", "armv7-unknown-linux-gnueabihf"] {
            assert_eq!(architecture(name), Ok(Architecture::Armv7));
        }
        assert_eq!(architecture("arm64"), Ok(Architecture::Aarch64));
        let error = architecture("amd64").unwrap_err();
        assert!(error.contains("arm64 (64-bit ARM) or armhf (32-bit ARM)"), "{error}");
    }

    #[test]
    fn the_maintainer_is_the_first_who_can_be_named() {
        let some = |text: &str| Some(text.to_string());
        let cases = [
            (
                ["", "Jo Doe", "jo"],
                ["", "jo@example.org", "jo@host"],
                "Jo Doe <jo@example.org>",
            ),
            (
                ["Jo <x>", "J\u{1b}[1m", "jo"],
                ["no address", "a b@c", "jo@host\n"],
                "jo <jo@host>",
            ),
            (["", "", ""], ["", "", ""], "thimble <root@localhost>"),
        ];
        for (names, mails, want) in cases {
            assert_eq!(named(names.map(some), mails.map(some)), want);
        }
        assert_eq!(named([None, None], [None]), "thimble <root@localhost>");
        assert!(maintainer().ends_with('>') && maintainer().contains(" <"));
    }
}
