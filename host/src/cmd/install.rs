//! `thimble install`: device program, model, tokenizer and unit into a mounted root file system, an SD card's for example.
//! The unit is enabled; every file appears whole or not at all.

use crate::board;
use crate::cli::{InstallArgs, Outcome};
use crate::package::{UNIT, payload};
use crate::store;
use crate::subject::Subject;
use crate::text::{exact, size};
use crate::virtual_board::device_program;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

pub fn run(args: &InstallArgs) -> Result<Outcome> {
    let target = board::find(&args.target)?;
    if !matches!(Subject::open(&args.file)?, Subject::File(_)) {
        bail!(
            "{}: a board runs files of thimble's; make one with thimble export or shrink",
            args.file.display()
        );
    }
    let root = args
        .rootfs
        .canonicalize()
        .with_context(|| args.rootfs.display().to_string())?;
    if root == Path::new("/") {
        bail!("--rootfs /: that is this machine; name where the board's file system is mounted");
    }
    if !root.join("etc/os-release").exists() && !root.join("usr/lib/os-release").exists() {
        bail!(
            "{}: no root file system of a board: it has no etc/os-release",
            root.display()
        );
    }
    let program = device_program(args.payload.device_program.as_deref())?;
    let payload = payload(&args.file, &program, args.payload.max_ram.map(|r| r.as_u64()))?;
    let ram = target.ram_available.as_ref().unwrap_or(&target.ram_total).value;
    let model = std::fs::metadata(&args.file).map_or(0, |m| m.len());
    if model > ram {
        return Ok(Outcome::no(format!(
            "no: the model has {}, {} has {} of RAM for it\n",
            size(model),
            target.name,
            size(ram)
        )));
    }
    let mut text = String::new();
    for file in &payload.files {
        let path = inside(&root, &file.path)?;
        store::write_whole(&path, &file.bytes)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))
            .with_context(|| path.display().to_string())?;
        text += &format!("/{}  {}\n", file.path, exact(file.bytes.len() as u64));
    }
    let wants = inside(&root, &format!("etc/systemd/system/multi-user.target.wants/{UNIT}"))?;
    // Enabled as systemctl does it; again is no error.
    if std::fs::symlink_metadata(&wants).is_err() {
        symlink(format!("/usr/lib/systemd/system/{UNIT}"), &wants).with_context(|| wants.display().to_string())?;
    }
    text += &format!("enabled {UNIT}: it measures at boot and leaves /var/lib/thimble/report.json\n");
    Ok(Outcome::yes(text))
}

/// `path` below `root`, its directories made. Absolute links in a mounted system point into this machine's own: they are
/// refused, not followed.
fn inside(root: &Path, path: &str) -> Result<std::path::PathBuf> {
    let full = root.join(path);
    let dir = full.parent().unwrap_or(root);
    // Looked at before anything is made: a directory made through such a link would lie on this machine.
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(root);
    let real = existing
        .canonicalize()
        .with_context(|| existing.display().to_string())?;
    if !real.starts_with(root) {
        bail!("{}: leads out of {} through a link", existing.display(), root.display());
    }
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    Ok(full)
}
