//! `thimble install`: device program, model, tokenizer and units into a mounted root file system, or into the root partition of
//! an SD card's image. The units are enabled; every file appears whole or not at all, an image changes as a whole.

use super::args::{PayloadArgs, limit_too_low, without_tokenizer};
use super::outcome::Outcome;
use crate::boards::cost_model::{seq_of, serving};
use crate::boards::device_binary::{chosen, device_program, head, whole};
use crate::boards::package::unit::Scope;
use crate::boards::package::{CHECK, Enabling, MASK, MODELS, OWN_UNITS, Payload, payload};
use crate::boards::sd_image::{self, CardError};
use crate::boards::{profiles, tools};
use crate::fs::atomic::{self, Output};
use crate::models::model_file::File;
use crate::render::text::{exact, printable, remark, say, size};
use anyhow::{Context, Result, bail};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use thimble_shared::board::architecture::Architecture;
use thimble_shared::board::target::Target;
use thimble_shared::files;

#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Install this thimble file
    pub file: PathBuf,
    /// Install into this mounted root file system of a 64-bit or 32-bit ARM system
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    pub rootfs: Option<PathBuf>,
    /// Install into this raw SD-card image, which is replaced as a whole or not at all (needs e2fsprogs, no root)
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Use this partition as root [default: the only ext4 one with etc/os-release]
    #[arg(long, value_name = "N", requires = "image")]
    pub partition: Option<u32>,
    /// Name the board; the file must fit its RAM [default: the one that the system there names]
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    #[command(flatten)]
    pub payload: PayloadArgs,
}

const NO_PLACE: &str =
    "give --rootfs DIR, a mounted root file system of the board, or --image FILE, the image of its SD card";

/// Runs `thimble install`: one check after another, before anything is written, so it is not cut into parts.
pub fn run(args: &InstallArgs) -> Result<Outcome> {
    let target = args.target.as_deref().map(profiles::find).transpose()?;
    match (&args.image, &args.rootfs) {
        (Some(image), _) => {
            tools::need(&["debugfs", "e2fsck"])?;
            // The copy lies beside it, and takes its place.
            let dir = atomic::folder(image);
            atomic::takes_files(dir).with_context(|| format!("{}: nothing can be made there", dir.display()))?;
        }
        (None, Some(root)) => drop(std::fs::read_dir(root).with_context(|| root.display().to_string())?),
        (None, None) => bail!(NO_PLACE),
    }
    let target = target.or_else(|| args.rootfs.as_deref().and_then(board_of));
    let file = File::for_board(&args.file)?;
    let program = match program_for(args, target.as_ref()) {
        Ok(program) => program,
        Err(error) => return refused(error),
    };
    let units = args.payload.units(target.as_ref().map(|target| target.ram_total.value));
    let (bytes, tokenizer) = (file.bytes()?, file.tokenizer()?);
    let graph = &file.artifact.graph;
    let need = serving(
        graph,
        bytes.len() as u64,
        seq_of(&graph.config, None)?,
        tokenizer.as_deref(),
    );
    let takes_texts = tokenizer.is_some();
    let payload = payload(&args.file, bytes, tokenizer, whole(&program)?, &units)?;
    let model = file.map.file().bytes();
    let ram = |target: &Target| target.ram_available.as_ref().unwrap_or(&target.ram_total).value;
    if target.is_none() {
        remark(
            "note: the system there does not say which board it is for: the model is held against no board's RAM; --target NAME does",
        );
    }
    if let Some((target, ram)) = target.as_ref().map(|t| (t, ram(t))).filter(|&(_, ram)| model > ram) {
        return Ok(Outcome::no(format!(
            "no: the model has {}, {} has {} of RAM for it\n",
            size(model),
            target.name,
            size(ram)
        )));
    }
    if let Some(why) = limit_too_low(&units, need) {
        return Ok(Outcome::no(format!("no: {why}; nothing was written\n")));
    }
    if !takes_texts {
        without_tokenizer(&args.file);
    }
    let done = match (&args.image, &args.rootfs) {
        (Some(image), _) => into_image(image, args.partition, &payload),
        (None, Some(root)) => into_root(root, &payload),
        (None, None) => bail!(NO_PLACE),
    };
    let (mut text, masked) = match done {
        Ok(done) => done,
        Err(error) => return refused(error),
    };
    for file in payload.in_order() {
        text += &format!("/{}  {}\n", file.path, exact(file.bytes.len() as u64));
    }
    for unit in payload.units().into_iter().filter(|unit| masked.contains(unit)) {
        text += &format!(
            "{unit} was masked there and stays so: it does not run; remove /{OWN_UNITS}/{unit} or run systemctl unmask {unit}\n"
        );
    }
    if masked.iter().all(|unit| *unit == CHECK) {
        text += &format!(
            "enabled thimble.socket and thimble.service: it answers at {}, {}\n",
            Scope::System.listens(),
            if takes_texts {
                "to texts and token ids"
            } else {
                "to token ids"
            }
        );
    }
    if payload.units().contains(&CHECK) && !masked.contains(&CHECK) {
        text += &format!("enabled {CHECK}: it measures at boot and leaves /var/lib/thimble/report.json\n");
    }
    Ok(Outcome::yes(text))
}

/// A no where nothing is broken, it just does not fit.
fn refused(error: anyhow::Error) -> Result<Outcome> {
    match error.downcast::<CardError>()? {
        CardError::Refused(why) => Ok(Outcome::no(format!("no: {why}; nothing was written\n"))),
        other => Err(other.into()),
    }
}

/// The device program for what the system there runs; where it does not tell, for what the board is said to run.
fn program_for(args: &InstallArgs, target: Option<&Target>) -> Result<PathBuf> {
    let system = match (&args.image, &args.rootfs) {
        (Some(image), _) => Some(sd_image::architecture(image, args.partition)?),
        (None, Some(root)) => shell_of(&board_root(root)?)?,
        (None, None) => None,
    };
    let named = args.payload.device_program.as_deref();
    let chosen = chosen(named)?;
    if let (Some(system), Some(program)) = (system, &chosen) {
        sd_image::fits(system, program.architecture)?;
    }
    let architecture = system
        .or(chosen.map(|program| program.architecture))
        .or(target.map(Target::architecture))
        .unwrap_or(Architecture::Aarch64);
    Ok(device_program(named, architecture)?)
}

/// A mounted root file system of a board, by its own path.
fn board_root(root: &Path) -> Result<PathBuf> {
    let root = root.canonicalize().with_context(|| root.display().to_string())?;
    if root == Path::new("/") {
        bail!("--rootfs /: that is this machine; name where the board's file system is mounted");
    }
    if !root.join("etc/os-release").exists() && !root.join("usr/lib/os-release").exists() {
        bail!(
            "{}: no root file system of a board: it has no etc/os-release",
            root.display()
        );
    }
    Ok(root)
}

/// What a mounted system runs, where it has a shell that tells.
fn shell_of(root: &Path) -> Result<Option<Architecture>> {
    let Some(shell) = follow(root, Path::new("bin/sh")).filter(|path| path.is_file()) else {
        return Ok(None);
    };
    let head = head_of(&shell).with_context(|| shell.display().to_string())?;
    Ok(Some(sd_image::of_shell(&head)?))
}

/// The board that a mounted system says it is for, where thimble knows it: Armbian and others name it in a file.
fn board_of(root: &Path) -> Option<Target> {
    const FILES: [&str; 2] = ["etc/armbian-release", "etc/os-release"];
    const KEYS: [&str; 3] = ["BOARD=", "IMAGE_BOARD=", "MACHINE="];
    let all = profiles::all().ok()?;
    for path in FILES.iter().filter_map(|file| follow(root, Path::new(file))) {
        let text = files::read_text(&path).unwrap_or_default();
        let named = text
            .lines()
            .filter_map(|line| KEYS.iter().find_map(|key| line.strip_prefix(key)));
        for name in named.map(|name| name.trim_matches('"')) {
            let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
            if let Some(target) = all.iter().find(|t| plain(&t.name) == plain(name)) {
                remark(&format!("note: the system there is for {}", target.name));
                return Some(target.clone());
            }
        }
    }
    None
}

/// What to say, and the units that are masked.
type Done = (String, Vec<&'static str>);

fn into_image(image: &Path, partition: Option<u32>, payload: &Payload) -> Result<Done> {
    let done = sd_image::install(image, partition, payload)?;
    if done.owner_changed {
        say(&format!(
            "warning: {}: it belongs to you now; only root can restore its owner",
            image.display()
        ));
    }
    let text = match done.partition {
        0 => format!("into {}\n", image.display()),
        number => format!("into partition {number} of {}\n", image.display()),
    };
    Ok((text, done.masked))
}

fn into_root(root: &Path, payload: &Payload) -> Result<Done> {
    let root = &board_root(root)?;
    if let Some(system) = shell_of(root)? {
        sd_image::fits(system, payload.architecture)?;
    }
    // All is looked at before anything is written: a link that leads out must not stop it half way.
    let files = payload.in_order();
    let enabling = payload.enabling();
    let links = enabling.iter().map(|one| one.link.as_str());
    for path in files.iter().map(|f| f.path.as_str()).chain(links) {
        stays_inside(root, path)?;
    }
    // Enabled already is no error.
    let there = |one: &&Enabling| std::fs::symlink_metadata(root.join(&one.link)).is_ok();
    let missing: Vec<&Enabling> = enabling.iter().filter(|one| !there(one)).collect();
    for one in &missing {
        let full = root.join(&one.link);
        let dir = existing(root, &full);
        atomic::takes_files(dir).with_context(|| format!("{}: nothing can be made there", dir.display()))?;
    }
    // Two at once would leave a program of one and a model of the other.
    let _alone = atomic::alone(root);
    let mut made = Vec::new();
    let written: Result<()> = (|| {
        let paths = files
            .iter()
            .map(|file| inside(root, &file.path, &mut made))
            .collect::<Result<Vec<_>>>()?;
        let links = missing
            .iter()
            .map(|one| Ok((inside(root, &one.link, &mut made)?, &one.to)))
            .collect::<Result<Vec<_>>>()?;
        let outputs = files.iter().zip(&paths).map(|(file, path)| Output {
            mode: Some(file.mode),
            ..Output::new(path, &file.bytes)
        });
        // Enabled as systemctl does it.
        let enable = || {
            let link = |(link, to): &(PathBuf, &String)| symlink(to, link).map_err(atomic::refused(link));
            links.iter().try_for_each(link)
        };
        Ok(atomic::write_all_and(&outputs.collect::<Vec<_>>(), enable)?)
    })();
    if written.is_err() {
        // Those that hold anything stay.
        made.iter().rev().for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
    written?;
    let masked =
        |unit: &&str| std::fs::read_link(root.join(OWN_UNITS).join(unit)).is_ok_and(|to| to == Path::new(MASK));
    Ok((
        left(root, payload),
        payload.units().into_iter().filter(masked).collect(),
    ))
}

/// What an earlier install left: files beside the model that this payload has not, which no unit of it names.
fn left(root: &Path, payload: &Payload) -> String {
    let Some(dir) = follow(root, Path::new(MODELS)) else {
        return String::new();
    };
    let ours = |name: &str| payload.files.iter().any(|file| file.path == format!("{MODELS}/{name}"));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut others: Vec<String> = names.filter(|name| !ours(name)).collect();
    others.sort();
    match others.as_slice() {
        [] => String::new(),
        others => format!(
            "left from before, and used by none of thimble's units: {}; remove it where nothing else does\n",
            others
                .iter()
                .map(|name| format!("/{MODELS}/{}", printable(name)))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn head_of(program: &Path) -> std::io::Result<Vec<u8>> {
    head(&thimble_shared::files::open(program)?)
}

/// Where `path` leads when `root` is the root: absolute links start there again, and `..` does not leave it.
fn follow(root: &Path, path: &Path) -> Option<PathBuf> {
    let parts = |path: &Path| -> Vec<_> {
        let part = |c: Component| match c {
            Component::Normal(_) | Component::ParentDir => Some(c.as_os_str().to_owned()),
            _ => None,
        };
        path.components().rev().filter_map(part).collect()
    };
    let mut left = parts(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let Ok(to) = std::fs::read_link(root.join(&next)) else {
            at = next;
            continue;
        };
        links += 1;
        if links > 40 {
            return None;
        }
        if to.is_absolute() {
            at = PathBuf::new();
        }
        left.extend(parts(&to));
    }
    Some(root.join(at))
}

/// Absolute links in a mounted system point into this machine's own: they are refused, not followed.
fn stays_inside(root: &Path, path: &str) -> Result<()> {
    let full = root.join(path);
    // Looked at before anything is made: a directory made through such a link would lie on this machine.
    let existing = existing(root, &full);
    let real = existing
        .canonicalize()
        .with_context(|| format!("{}: a link that leads nowhere", existing.display()))?;
    if !real.starts_with(root) {
        bail!("{}: leads out of {} through a link", existing.display(), root.display());
    }
    Ok(())
}

/// The directory that `path` lies in, or the one that is to hold those that are missing. A link that leads nowhere does not
/// exist by its own word, and is a link all the same.
fn existing<'a>(root: &'a Path, path: &'a Path) -> &'a Path {
    path.ancestors()
        .skip(1)
        .find(|dir| std::fs::symlink_metadata(dir).is_ok())
        .unwrap_or(root)
}

/// `path` below `root`, its directories made and added to `made`.
fn inside(root: &Path, path: &str, made: &mut Vec<PathBuf>) -> Result<PathBuf> {
    stays_inside(root, path)?;
    let full = root.join(path);
    let dir = full.parent().unwrap_or(root);
    make_directories(dir, made).with_context(|| dir.display().to_string())?;
    Ok(full)
}

/// With a mode of their own: whoever installs may have an umask that shuts others out, the board's users are others.
fn make_directories(dir: &Path, made: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    dir.parent().map_or(Ok(()), |parent| make_directories(parent, made))?;
    match std::fs::create_dir(dir) {
        // Another install was faster.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
        Ok(()) => {
            made.push(dir.to_path_buf());
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_board_would() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("/usr/bin", root.join("bin")).unwrap();
        symlink("../../../../bin/dash", root.join("usr/bin/sh")).unwrap();
        std::fs::write(root.join("usr/bin/dash"), b"x").unwrap();
        assert_eq!(follow(root, Path::new("bin/sh")), Some(root.join("usr/bin/dash")));
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(follow(root, Path::new("loop")), None);
    }

    #[test]
    fn a_system_that_names_its_board_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let cases = [
            ("BOARD=jetson-nano\n", Some("jetson-nano")),
            ("# Armbian\nBOARD=\"Jetson_Nano\"\nBOARD_NAME=x\n", Some("jetson-nano")),
            ("BOARD=orangepizero3\n", None),
            ("", None),
        ];
        for (text, want) in cases {
            std::fs::write(dir.path().join("etc/armbian-release"), text).unwrap();
            assert_eq!(board_of(dir.path()).map(|t| t.name).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_link_that_leads_out_or_nowhere_is_refused() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path().canonicalize().unwrap();
        symlink(outside.path(), root.join("usr")).unwrap();
        symlink(outside.path().join("nowhere"), root.join("etc")).unwrap();
        for path in ["usr/lib/x", "etc/x/y"] {
            assert!(inside(&root, path, &mut Vec::new()).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
