//! Installs into the root partition of a raw SD-card image, without root and without mounting it. All work is done on a copy
//! beside the image, which takes its place when every file was read back and e2fsck has nothing to say: whatever happens
//! before that, the image is as it was.

pub mod debugfs;
pub mod partition;

use crate::boards::package::{Enabling, MASK, OWN_UNITS, Payload};
use crate::fs::atomic::{self, FileError};
use crate::fs::subprocess::ToolError;
use crate::render::text::{Progress, remark, size};
use debugfs::{FileSystem, Stat};
use partition::{Partition, Super, TableError};
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use thimble_shared::board::architecture::Architecture;

/// Why nothing was installed; the image is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The image, its copy or its folder cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image has no partition table, a damaged one, or a file system that must not be written to.
    #[error("{}: {source}", path.display())]
    Table {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: TableError,
    },
    /// debugfs or e2fsck does not start or fails.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A path in the image holds a control character or a double quote.
    #[error("{0:?} in the image cannot be named to debugfs")]
    Path(String),
    /// Nothing is broken, it just does not fit.
    #[error("{0}")]
    Refused(String),
}

impl CardError {
    fn file(path: &Path, problem: impl ToString) -> CardError {
        FileError::new(path, problem).into()
    }
}

/// More than any shell has.
const MOST_SHELL: u64 = 64 << 20;
/// What the name of the working copy begins with.
const COPY: &str = ".thimble-image-";
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// What came of an install.
pub struct Installed {
    /// 0 is an image that is one file system.
    pub partition: u32,
    /// The units that the system there will never start: its owner masked them.
    pub masked: Vec<&'static str>,
    /// Whether the image could not be given back to its owner.
    pub owner_changed: bool,
}

/// Installs a payload into the root partition of an image, or into partition `wanted`.
///
/// # Errors
/// Where the image cannot be read, is in use, has no room, a system of another architecture or a damaged file system, or where what was
/// written does not read back.
pub fn install(image: &Path, wanted: Option<u32>, payload: &Payload) -> Result<Installed, CardError> {
    let failed = |e: std::io::Error| CardError::file(image, e);
    // A link stays a link: what it leads to is replaced.
    let image = &regular(image)?;
    let mut file = open_alone(image).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let (partition, space) = root_partition(image, &mut file, meta.len(), wanted)?;
    let original = FileSystem::of(image, &partition)?;
    fits(runs(image, &original)?, payload.architecture)?;
    let script = Script::new(&original, payload, &space)?;

    let folder = image.parent().unwrap_or(Path::new("/"));
    atomic::clear_abandoned(folder);
    let mut copy = atomic::temporary(folder, COPY, 0o600).map_err(|e| CardError::file(folder, e))?;
    copy_sparse(&mut file, copy.as_file_mut(), meta.len()).map_err(|e| CardError::file(folder, e))?;
    let now = image.metadata().map_err(failed)?;
    if (now.len(), now.modified().ok()) != (meta.len(), meta.modified().ok()) {
        return Err(CardError::file(image, "was changed while it was copied; is it in use?"));
    }
    let fresh = FileSystem::of(copy.path(), &partition)?;
    if let Some(complaint) = fresh.unsound()? {
        let told = format!("its file system is damaged; repair it with e2fsck first ({complaint})");
        return Err(CardError::file(image, told));
    }
    script.apply(&fresh, payload)?;
    script.check(&fresh, payload, image)?;
    if let Some(complaint) = fresh.unsound()? {
        let told = format!("debugfs would have left a damaged file system; nothing was changed ({complaint})");
        return Err(CardError::file(image, told));
    }
    // The mode comes after the owner, whose change takes the set-user bits away.
    let owner_changed = fchown(copy.as_file(), Some(meta.uid()), Some(meta.gid())).is_err();
    copy.as_file().set_permissions(meta.permissions()).map_err(failed)?;
    copy.as_file().sync_all().map_err(failed)?;
    copy.persist(image).map_err(|e| failed(e.error))?;
    File::open(folder).and_then(|d| d.sync_all()).map_err(failed)?;
    Ok(Installed {
        partition: partition.number,
        masked: script.masked,
        owner_changed,
    })
}

/// The image, held by nobody else who installs: the copy of one would take the place of the other's. The lock goes with the
/// file that was opened, so after a wait it must still be the one that has the name.
fn open_alone(image: &Path) -> std::io::Result<File> {
    let mut told = false;
    loop {
        let file = File::open(image)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                if !told {
                    remark(&format!("{}: another install is at work; waiting", image.display()));
                }
                told = true;
                file.lock()?;
            }
            // A file system without locks.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
        let (ours, named) = (file.metadata()?, image.metadata()?);
        if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
            return Ok(file);
        }
    }
}

/// The partition that was named, or the only one that looks like a Linux system's root.
fn root_partition(
    image: &Path,
    file: &mut File,
    bytes: u64,
    wanted: Option<u32>,
) -> Result<(Partition, Super), CardError> {
    let table = |source| CardError::Table {
        path: image.to_path_buf(),
        source,
    };
    let mut head = Vec::new();
    let _ = Read::by_ref(file).take(8).read_to_end(&mut head);
    if let Some((packer, unpack)) = partition::packed(&head) {
        let told = format!("is packed with {packer}; unpack it first: {unpack} {}", image.display());
        return Err(CardError::file(image, told));
    }
    let whole = Partition {
        number: 0,
        offset: 0,
        bytes,
    };
    let partitions = match partition::table(file, bytes) {
        // A file system without a table around it, as image builders make it.
        Err(TableError::None) if wanted.is_none() && matches!(partition::ext(file, &whole), Ok(Some(_))) => vec![whole],
        other => other.map_err(table)?,
    };
    let numbers = |of: &[Partition]| of.iter().map(|p| p.number.to_string()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let found = partitions.iter().find(|p| p.number == wanted);
        let Some(found) = found else {
            let told = format!("has no partition {wanted}; it has {}", numbers(&partitions));
            return Err(CardError::file(image, told));
        };
        let Some(space) = partition::ext(file, found).map_err(table)? else {
            return Err(CardError::file(
                image,
                format!("partition {wanted} holds no ext4 file system"),
            ));
        };
        if !is_root(&FileSystem::of(image, found)?)? {
            let told = format!("partition {wanted} is no root file system: it has no etc/os-release");
            return Err(CardError::file(image, told));
        }
        return Ok((found.clone(), space));
    }
    // One that must not be written to may be the root that was meant: it counts, where it does not show that it is none.
    let (mut roots, mut spaces) = (Vec::new(), Vec::new());
    for one in &partitions {
        let space = match partition::ext(file, one) {
            Ok(None) => continue,
            Ok(Some(space)) if is_root(&FileSystem::of(image, one)?)? => Ok(space),
            Err(e) if is_root(&FileSystem::of(image, one)?).unwrap_or(true) => Err(e),
            _ => continue,
        };
        roots.push(one.clone());
        spaces.push(space);
    }
    match roots.len() {
        1 => Ok((roots.remove(0), spaces.remove(0).map_err(table)?)),
        0 => Err(CardError::file(
            image,
            format!(
                "none of its partitions ({}) is an ext4 root file system with etc/os-release",
                numbers(&partitions)
            ),
        )),
        _ => Err(CardError::file(
            image,
            format!(
                "has several root file systems; say which with --partition: {}",
                numbers(&roots)
            ),
        )),
    }
}

fn is_root(system: &FileSystem) -> Result<bool, CardError> {
    for path in OS_RELEASE {
        if system.stat(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the system in the root partition of an image runs, or partition `wanted`.
///
/// # Errors
/// Where the image or its shell cannot be read, or no program for boards runs there.
pub fn architecture(image: &Path, wanted: Option<u32>) -> Result<Architecture, CardError> {
    let failed = |e: std::io::Error| CardError::file(image, e);
    let image = &regular(image)?;
    let mut file = File::open(image).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let (partition, _) = root_partition(image, &mut file, bytes, wanted)?;
    runs(image, &FileSystem::of(image, &partition)?)
}

/// An image's own path, where it is a file.
fn regular(image: &Path) -> Result<PathBuf, CardError> {
    let failed = |e: std::io::Error| CardError::file(image, e);
    let path = image.canonicalize().map_err(failed)?;
    match path.metadata().map_err(failed)?.is_file() {
        true => Ok(path),
        false => Err(CardError::file(
            &path,
            "is no regular file; mount a card's root partition and name it with --rootfs",
        )),
    }
}

/// What the shell of a system is for, and so the system.
fn runs(image: &Path, system: &FileSystem) -> Result<Architecture, CardError> {
    let shell = match system.follow("/bin/sh")? {
        Some(path) => system.read(&path, MOST_SHELL)?,
        None => None,
    };
    let Some(shell) = shell else {
        let told = "its root file system has no /bin/sh to tell the architecture by";
        return Err(CardError::file(image, told));
    };
    of_shell(&shell)
}

/// What a system runs, by the program that is its shell.
///
/// # Errors
/// [`CardError::Refused`] where no program for boards runs there.
pub fn of_shell(program: &[u8]) -> Result<Architecture, CardError> {
    Architecture::of_program(program).map_err(|other| {
        let [usual, small] = Architecture::ALL;
        CardError::Refused(format!(
            "the system there is {other}, thimble-device is for {usual} and {small}"
        ))
    })
}

/// Refuses a program that is for another architecture than the system there.
///
/// # Errors
/// [`CardError::Refused`].
pub fn fits(system: Architecture, program: Architecture) -> Result<(), CardError> {
    match system == program {
        true => Ok(()),
        false => Err(CardError::Refused(format!(
            "the system there runs {system}, the thimble-device that was named is for {program}; {} makes one for it",
            system.build()
        ))),
    }
}

/// What is to be done to the file system, made up before anything is.
struct Script {
    text: String,
    /// The links that are made.
    links: Vec<Enabling>,
    masked: Vec<&'static str>,
}

impl Script {
    fn new(system: &FileSystem, payload: &Payload, space: &Super) -> Result<Script, CardError> {
        let mut text = String::new();
        let mut known = BTreeSet::new();
        let (mut blocks, mut inodes, mut freed) = (16u64, 1u64, 0u64);
        let mut directories = |path: &str, text: &mut String, blocks: &mut u64, inodes: &mut u64| {
            for (at, _) in path.match_indices('/') {
                let dir = &path[..at];
                if !known.insert(dir.to_string()) {
                    continue;
                }
                match system.stat(&format!("/{dir}"))?.map(|s| s.kind) {
                    Some(kind) if kind == "directory" => {}
                    Some(kind) => {
                        return Err(CardError::Refused(format!(
                            "/{dir} in the image is no directory but a {kind}"
                        )));
                    }
                    None => {
                        *text += &format!("mkdir \"/{dir}\"\n");
                        (*blocks, *inodes) = (*blocks + 1, *inodes + 1);
                    }
                }
            }
            Ok(())
        };
        for (number, file) in payload.in_order().into_iter().enumerate() {
            directories(&file.path, &mut text, &mut blocks, &mut inodes)?;
            let (dir, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
            // write takes a name in the directory it stands in.
            text += &format!("cd \"/{dir}\"\n");
            if let Some(there) = system.stat(&format!("/{}", file.path))? {
                if there.kind == "directory" {
                    return Err(CardError::Refused(format!(
                        "/{} in the image is a directory",
                        file.path
                    )));
                }
                freed += there.bytes.div_ceil(space.block);
                text += &format!("rm \"{name}\"\n");
            }
            let data = (file.bytes.len() as u64).div_ceil(space.block);
            // Block maps take one in 256, extents less.
            blocks += data + data.div_ceil(256) + 1;
            inodes += 1;
            text += &format!(
                "write staged{number} \"{name}\"\nsif \"{name}\" mode 0{:o}\n",
                0o100_000 | file.mode
            );
            text += &format!("sif \"{name}\" uid 0\nsif \"{name}\" gid 0\n");
        }
        let mut links = Vec::new();
        for one in payload.enabling() {
            directories(&one.link, &mut text, &mut blocks, &mut inodes)?;
            // Enabled already is no error, and a unit that was masked stays so.
            if system.stat(&format!("/{}", one.link))?.is_none() {
                let (dir, name) = one.link.rsplit_once('/').unwrap_or(("", &one.link));
                text += &format!("cd \"/{dir}\"\nsymlink \"{name}\" \"{}\"\n", one.to);
                links.push(one);
            }
        }
        if blocks > space.free + freed {
            return Err(CardError::Refused(format!(
                "{} are needed, the partition has {} free",
                size(blocks * space.block),
                size((space.free + freed) * space.block)
            )));
        }
        if inodes > space.free_inodes {
            return Err(CardError::Refused("the partition has no inodes left".into()));
        }
        // In an image links may lead anywhere; what a mask is, is the link itself.
        let mut masked = Vec::new();
        for unit in payload.units() {
            let own = system.stat(&format!("/{OWN_UNITS}/{unit}"))?;
            if own.and_then(|stat| stat.link).as_deref() == Some(MASK) {
                masked.push(unit);
            }
        }
        Ok(Script { text, links, masked })
    }

    fn apply(&self, system: &FileSystem, payload: &Payload) -> Result<(), CardError> {
        for (number, file) in payload.in_order().into_iter().enumerate() {
            system.stage(number, &file.bytes)?;
        }
        system.write(&self.text)
    }

    /// Reads everything back.
    fn check(&self, system: &FileSystem, payload: &Payload, image: &Path) -> Result<(), CardError> {
        let wrong = |path: &str| {
            CardError::file(
                image,
                format!("debugfs did not write {path} as it should; the image is unchanged"),
            )
        };
        for file in payload.in_order() {
            let path = format!("/{}", file.path);
            let stat = system.stat(&path)?.ok_or_else(|| wrong(&path))?;
            let right = Stat {
                kind: "regular".into(),
                mode: file.mode,
                owner: (0, 0),
                bytes: file.bytes.len() as u64,
                link: None,
            };
            if stat != right || system.read(&path, right.bytes)?.as_ref() != Some(&file.bytes) {
                return Err(wrong(&path));
            }
        }
        for one in payload.enabling() {
            let path = format!("/{}", one.link);
            let made = self.links.contains(&one);
            match system.stat(&path)? {
                Some(stat) if !made || stat.link.as_deref() == Some(&one.to) => {}
                _ => return Err(wrong(&path)),
            }
        }
        Ok(())
    }
}

/// Copies `bytes`, leaving holes where there are zeros: an image is mostly empty.
fn copy_sparse(from: &mut File, to: &mut File, bytes: u64) -> std::io::Result<()> {
    const PIECE: usize = 64 << 10;
    let mut progress = Progress::new("copying the image", bytes);
    from.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0u8; PIECE];
    let mut at = 0;
    while at < bytes {
        let now = PIECE.min(usize::try_from(bytes - at).unwrap_or(PIECE));
        from.read_exact(&mut piece[..now])?;
        if piece[..now].iter().any(|b| *b != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&piece[..now])?;
        }
        at += now as u64;
        progress.add(now as u64);
    }
    to.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_copy_is_the_same_file_and_takes_less_room() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![0u8; (4 << 20) + 17];
        bytes[2 << 20] = 7;
        std::fs::write(&from, &bytes).unwrap();
        let mut out = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&to)
            .unwrap();
        copy_sparse(&mut File::open(&from).unwrap(), &mut out, bytes.len() as u64).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
