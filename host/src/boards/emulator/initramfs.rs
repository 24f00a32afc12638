//! What the virtual board boots from: an initramfs with the device program, its instructions and the kernel modules it
//! needs, and the model, either on an ext4 disk made with mke2fs (its pages are then a real page cache that the kernel can
//! drop, as on an SD card) or inside the initramfs (where every byte of it stays in RAM).

use super::{BoardError, Setup};
use crate::boards::cpio::{Archive, CpioError};
use crate::boards::device_binary::PROGRAM;
use crate::fs::subprocess::{ToolError, complaint, tool};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    Disk,
    Initramfs,
}

/// What lies in the directory a board boots from, under these names: qemu and mke2fs are started there, so that nothing in a
/// user's paths (commas, blanks, question marks) means anything to them.
pub const INITRAMFS: &str = "initramfs";
pub const MODEL_DISK: &str = "disk";

pub struct Image {
    pub initramfs_bytes: u64,
    pub has_disk: bool,
}

const DISK: &str = "/dev/vda";
const FILE_SYSTEM: &str = "ext4";
/// What a disk needs; a kernel that has one built in does without. The file system asks for its checksum by no dependency of its own.
const DISK_MODULES: [&str; 4] = ["virtio_mmio", "virtio_blk", "crc32c_generic", FILE_SYSTEM];

pub fn build(setup: &Setup, dir: &Path) -> Result<Image, BoardError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |e: std::io::Error| BoardError::file(&path, e)
    };
    let program = std::fs::read(setup.device_program).map_err(at(setup.device_program))?;
    let name = match setup.model.file_name().and_then(|n| n.to_str()) {
        Some(name) if !name.contains('\n') => name,
        _ => {
            return Err(BoardError::file(
                setup.model,
                "has a name that cannot be handed to the board",
            ));
        }
    };
    let mut archive = Archive::default();
    let mut modules = String::new();
    let packed = |e: CpioError| BoardError::Guest(e.to_string());
    for directory in ["dev", "proc", "sys", "model", "tmp", "thimble", "modules"] {
        archive.directory(directory, 0o755).map_err(packed)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1).map_err(packed)?;
    archive.character_device("dev/null", 0o666, 1, 3).map_err(packed)?;
    let has_disk = match setup.storage {
        Storage::Disk => {
            for (module, bytes) in setup.kernel.modules(&DISK_MODULES)? {
                archive
                    .file(&format!("modules/{module}"), 0o644, &bytes)
                    .map_err(packed)?;
                modules += &format!("/modules/{module}\n");
            }
            make_disk(setup.model, name, dir)?;
            true
        }
        Storage::Initramfs => {
            let model = std::fs::read(setup.model).map_err(at(setup.model))?;
            archive.file(&format!("model/{name}"), 0o644, &model).map_err(packed)?;
            false
        }
    };
    let disk_line = if has_disk {
        format!("{DISK}\n{FILE_SYSTEM}\n")
    } else {
        String::new()
    };
    let arguments: String = ["bench".to_string(), format!("/model/{name}")]
        .iter()
        .chain(setup.bench)
        .map(|a| format!("{a}\n"))
        .collect();
    let told = [
        ("thimble/modules", modules),
        ("thimble/disk", disk_line),
        ("thimble/arguments", arguments),
    ];
    for (path, text) in told {
        archive.file(path, 0o644, text.as_bytes()).map_err(packed)?;
    }
    // One file under two names would be two files in an initramfs without hard links: the first process starts the other.
    archive.file(PROGRAM, 0o755, &program).map_err(packed)?;
    archive.symlink("init", PROGRAM).map_err(packed)?;
    let (initramfs, bytes) = (dir.join(INITRAMFS), archive.finish());
    std::fs::write(&initramfs, &bytes).map_err(at(&initramfs))?;
    Ok(Image {
        initramfs_bytes: bytes.len() as u64,
        has_disk,
    })
}

/// An ext4 image that holds the model and little else.
fn make_disk(model: &Path, name: &str, dir: &Path) -> Result<(), BoardError> {
    const TREE: &str = "disk.d";
    let tree = dir.join(TREE);
    let copied = tree.join(name);
    std::fs::create_dir(&tree).map_err(|e| BoardError::file(&tree, e))?;
    let bytes = std::fs::copy(model, &copied).map_err(|e| BoardError::file(model, e))?;
    let kilobytes = (bytes + bytes / 16 + (4 << 20)) / 1024;
    let made = tool("mke2fs")
        .args([
            "-q",
            "-t",
            FILE_SYSTEM,
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-d",
            TREE,
            MODEL_DISK,
        ])
        .arg(format!("{kilobytes}k"))
        .current_dir(dir)
        .output()
        .map_err(|e| {
            let hint = "install it (Debian: apt-get install e2fsprogs), or put the model in with --storage initramfs";
            ToolError::start("mke2fs", &e, hint)
        })?;
    if !made.status.success() {
        return Err(ToolError::new("mke2fs", complaint(&made)).into());
    }
    std::fs::remove_dir_all(&tree).map_err(|e| BoardError::file(&tree, e))?;
    Ok(())
}
