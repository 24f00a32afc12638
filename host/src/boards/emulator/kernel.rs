//! The kernel of the virtual board: one the user names (an Image, or a Debian package of one), or Debian's own, fetched
//! with apt into a cache of thimble's without touching the system. Its modules are found in the same tree and read with
//! what they depend on, in the order they must be loaded.

use super::BoardError;
use crate::boards::tools;
use crate::fs::atomic;
use crate::fs::scratch::Scratch;
use crate::fs::subprocess::{ToolError, complaint, tool};
use crate::render::text::remark;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use thimble_device::image::digest::hex;
use thimble_shared::board::architecture::Architecture;
use thimble_shared::files;

#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    /// lib/modules/VERSION, where there is one.
    modules: Option<PathBuf>,
}

/// The package that depends on Debian's newest kernel for virtual machines; of 32 bits there is one for all.
const fn package(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Aarch64 => "linux-image-cloud-arm64",
        Architecture::Armv7 => "linux-image-armmp",
    }
}

/// What a kernel's image has, and where: an Image of 64 bits, a zImage of 32.
const fn magic(architecture: Architecture) -> (usize, [u8; 4]) {
    match architecture {
        Architecture::Aarch64 => (56, *b"ARM\x64"),
        Architecture::Armv7 => (36, [0x18, 0x28, 0x6f, 0x01]),
    }
}

/// A name in the cache: those of 64 bits are as they ever were.
fn in_cache(name: &str, architecture: Architecture) -> String {
    match architecture {
        Architecture::Aarch64 => name.to_string(),
        Architecture::Armv7 => format!("{name}-{}", architecture.debian()),
    }
}

impl Kernel {
    /// The kernel named, or the one in the cache, or Debian's.
    pub fn find(named: Option<&Path>, architecture: Architecture) -> Result<Kernel, BoardError> {
        if let Some(path) = named {
            atomic::regular(path)?;
        }
        match named {
            Some(path) if path.extension().is_some_and(|e| e == "deb") => {
                let tree = cache()?.join(tree_name(path)?);
                if Kernel::in_tree(&tree, architecture).is_none() {
                    unpack(path, &tree, architecture)?;
                }
                Kernel::in_tree(&tree, architecture).ok_or_else(|| {
                    BoardError::file(
                        path,
                        format!("holds no {} kernel (boot/vmlinuz-*)", architecture.debian()),
                    )
                })
            }
            Some(path) => Kernel::of_image(path, architecture),
            None => Kernel::debian(architecture),
        }
    }

    pub fn name(&self) -> String {
        self.image
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Whether the kernel's modules are at hand: without them a disk works only if all is built in.
    pub fn has_modules(&self) -> bool {
        self.modules.is_some()
    }

    /// An Image; modules are looked for where a root file system has them: ROOT/boot/vmlinuz-V, ROOT/lib/modules/V.
    fn of_image(path: &Path, architecture: Architecture) -> Result<Kernel, BoardError> {
        let mut head = [0u8; 64];
        // A package may hold anything under that name.
        atomic::regular(path).map_err(|e| BoardError::file(path, e.problem))?;
        std::fs::File::open(path)
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
            .map_err(|e| BoardError::file(path, e))?;
        // A compressed Image is the user's risk, qemu takes gzip.
        let (at, magic) = magic(architecture);
        let packed = architecture == Architecture::Aarch64 && head.starts_with(&[0x1f, 0x8b]);
        if !head[at..].starts_with(&magic) && !packed {
            let debian = architecture.debian();
            return Err(BoardError::file(path, format!("is not an {debian} kernel image")));
        }
        let version = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.split_once('-'));
        let modules = version.and_then(|(_, version)| {
            let root = path.parent()?.parent()?;
            ["lib/modules", "usr/lib/modules"]
                .iter()
                .map(|lib| root.join(lib).join(version))
                .find(|dir| dir.is_dir())
        });
        Ok(Kernel {
            image: path.to_path_buf(),
            modules,
        })
    }

    fn in_tree(tree: &Path, architecture: Architecture) -> Option<Kernel> {
        let image = std::fs::read_dir(tree.join("boot"))
            .ok()?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))?;
        Kernel::of_image(&image.path(), architecture).ok()
    }

    fn debian(architecture: Architecture) -> Result<Kernel, BoardError> {
        let cache = cache()?;
        let package = package(architecture);
        let tree = cache.join(in_cache("debian", architecture));
        if let Some(kernel) = Kernel::in_tree(&tree, architecture) {
            return Ok(kernel);
        }
        let apt = Apt::new(&cache.join(in_cache("apt", architecture)), architecture)?;
        // apt does not wait for another one's lists.
        let alone = File::open(&apt.dir).map_err(|e| BoardError::file(&apt.dir, e))?;
        if let Err(TryLockError::WouldBlock) = alone.try_lock() {
            remark("another emulate fetches the kernel; waiting");
            alone.lock().map_err(|e| BoardError::file(&apt.dir, e))?;
        }
        if let Some(kernel) = Kernel::in_tree(&tree, architecture) {
            return Ok(kernel);
        }
        remark(&format!("fetching {package} with apt into {}", cache.display()));
        // Where some lists cannot be fetched, those that were may do.
        let updated = apt.run("apt-get", &["update", "-q"]);
        let told = apt.run("apt-cache", &["depends", "--important", package]);
        let newest = told.ok().and_then(|told| {
            let mut depends = told.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            depends
                .find(|name| name.starts_with("linux-image-"))
                .map(str::to_string)
        });
        let Some(newest) = newest else {
            updated?;
            let told = format!("apt knows no kernel behind {package}; name one with --kernel");
            return Err(BoardError::Kernel(told));
        };
        apt.run("apt-get", &["download", "-q", &newest])?;
        let deb = std::fs::read_dir(&apt.dir)
            .map_err(|e| BoardError::file(&apt.dir, e))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| BoardError::file(&apt.dir, "apt downloaded nothing"))?;
        unpack(&deb, &tree, architecture)?;
        let _ = std::fs::remove_file(deb);
        Kernel::in_tree(&tree, architecture).ok_or_else(|| BoardError::file(&tree, "the package holds no kernel"))
    }

    /// The modules named and all they depend on, in loading order: file name and contents. One that is built in is left
    /// out; without a tree of modules all are taken to be.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>, BoardError> {
        let Some(tree) = &self.modules else {
            return Ok(Vec::new());
        };
        let mut files = BTreeMap::new();
        walk(tree, &mut files);
        let mut ordered = Vec::new();
        for name in names {
            add(name, &files, &mut ordered, 0)?;
        }
        Ok(ordered)
    }
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    ordered: &mut Vec<(String, Vec<u8>)>,
    depth: usize,
) -> Result<(), BoardError> {
    let file_name = format!("{name}.ko");
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if ordered.iter().any(|(known, _)| *known == file_name) || depth > 16 {
        return Ok(());
    }
    let bytes = read_module(path)?;
    for dependency in depends(&bytes) {
        add(&dependency, files, ordered, depth + 1)?;
    }
    ordered.push((file_name, bytes));
    Ok(())
}

fn walk(dir: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, files);
        } else if let Some((stem, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(stem.replace('-', "_"), path);
        }
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, BoardError> {
    let unpacker = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => {
            return files::read(path).map_err(|e| BoardError::file(path, e));
        }
    };
    tools::need(&[unpacker])?;
    let out = tool(unpacker).arg("-dc").arg(path).output();
    match out {
        Ok(out) if out.status.success() => Ok(out.stdout),
        _ => Err(BoardError::file(path, format!("{unpacker} cannot unpack it"))),
    }
}

/// The names after "depends=" in a module's .modinfo, NUL-terminated text like "jbd2,mbcache".
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|&b| b == 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&rest[..end]);
    text.split(',')
        .filter(|n| !n.is_empty())
        .map(|n| n.replace('-', "_"))
        .collect()
}

/// Where a package is unpacked to: two packages of one name are two kernels.
fn tree_name(deb: &Path) -> Result<String, BoardError> {
    let bytes = std::fs::read(deb).map_err(|e| BoardError::file(deb, e))?;
    let sum = hex(&Sha256::digest(&bytes)[..8]);
    let name = deb.file_stem().unwrap_or_default().to_string_lossy();
    Ok(format!("{name}-{sum}"))
}

fn unpack(deb: &Path, tree: &Path, architecture: Architecture) -> Result<(), BoardError> {
    let folder = tree.parent().unwrap_or(tree);
    let fresh = Scratch::within(folder).map_err(|e| BoardError::file(folder, e))?;
    let to = fresh.path().join("tree");
    let done = tool("dpkg-deb")
        .arg("-x")
        .args([deb, &to])
        .output()
        .map_err(|e| ToolError::start("dpkg-deb", &e, "name an unpacked kernel image with --kernel"))?;
    if !done.status.success() {
        return Err(BoardError::file(deb, complaint(&done)));
    }
    // Whatever lies there holds no kernel, unless another run has just put the same one there.
    if Kernel::in_tree(tree, architecture).is_none() {
        let _ = std::fs::remove_dir_all(tree);
    }
    match std::fs::rename(&to, tree) {
        Err(_) if Kernel::in_tree(tree, architecture).is_some() => Ok(()),
        done => done.map_err(|e| BoardError::file(tree, e)),
    }
}

/// Where fetched kernels stay: THIMBLE_CACHE, or the user's cache.
pub fn cache() -> Result<PathBuf, BoardError> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = var("THIMBLE_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("thimble")))
        .or_else(|| Some(var("HOME")?.join(".cache/thimble")))
        .ok_or_else(|| {
            BoardError::Kernel("no HOME and no THIMBLE_CACHE to keep a kernel in; name one with --kernel".into())
        })?;
    std::fs::create_dir_all(&dir).map_err(|e| BoardError::file(&dir, e))?;
    // apt changes its directory and resolves symbolic links.
    dir.canonicalize().map_err(|e| BoardError::file(&dir, e))
}

/// apt over the system's sources but with lists, cache and state of its own: needs no root and changes nothing.
struct Apt {
    dir: PathBuf,
    architecture: Architecture,
}

impl Apt {
    fn new(dir: &Path, architecture: Architecture) -> Result<Apt, BoardError> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = dir.join(part);
            std::fs::create_dir_all(&part).map_err(|e| BoardError::file(&part, e))?;
        }
        Ok(Apt {
            dir: dir.to_path_buf(),
            architecture,
        })
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Result<String, BoardError> {
        let debian = self.architecture.debian();
        let at = |part: &str| self.dir.join(part).display().to_string();
        let settings = [
            format!("APT::Architecture={debian}"),
            format!("APT::Architectures={debian}"),
            format!("Dir::State={}", at("state")),
            format!("Dir::Cache={}", at("cache")),
            "Dir::State::status=/dev/null".to_string(),
            "APT::Sandbox::User=".to_string(),
        ];
        let mut command = tool(name);
        for setting in settings {
            command.arg("-o").arg(setting);
        }
        let done = command.args(arguments).current_dir(&self.dir).output().map_err(|e| {
            let hint = format!(
                "on a system without apt, name an {debian} kernel (an image or a Debian package) with --kernel"
            );
            ToolError::start(name, &e, &hint)
        })?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().rfind(|l| l.starts_with("E:")).unwrap_or("no reason given");
        Err(BoardError::Kernel(format!(
            "{name} {}: {last}; name a kernel with --kernel",
            arguments[0]
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_loading_order_and_built_in_ones_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let boot = root.path().join("boot");
        let tree = root.path().join("lib/modules/6.1/kernel");
        std::fs::create_dir_all(&boot).unwrap();
        std::fs::create_dir_all(&tree).unwrap();
        let mut image = vec![0u8; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        std::fs::write(boot.join("vmlinuz-6.1"), image).unwrap();
        let module = |name: &str, depends: &str| {
            std::fs::write(tree.join(name), format!("\x7fELF\0license=GPL\0depends={depends}\0x")).unwrap();
        };
        module("ext4.ko", "jbd2,mbcache,crc32c-x");
        module("jbd2.ko", "mbcache");
        module("mbcache.ko", "");
        module("crc32c-x.ko", "");
        let kernel = Kernel::find(Some(&boot.join("vmlinuz-6.1")), Architecture::Aarch64).unwrap();
        let names: Vec<String> = kernel
            .modules(&["virtio_blk", "ext4"])
            .unwrap()
            .into_iter()
            .map(|m| m.0)
            .collect();
        assert_eq!(names, ["mbcache.ko", "jbd2.ko", "crc32c_x.ko", "ext4.ko"]);
        assert!(Kernel::find(Some(&tree.join("ext4.ko")), Architecture::Aarch64).is_err());
    }

    #[test]
    fn an_image_is_of_the_architecture_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for (at, magic, is) in [
            (56, *b"ARM\x64", [true, false]),
            (36, [0x18, 0x28, 0x6f, 0x01], [false, true]),
            (0, [0x1f, 0x8b, 8, 0], [true, false]),
            (36, *b"ARM\x64", [false, false]),
        ] {
            let mut image = vec![0u8; 64];
            image[at..at + 4].copy_from_slice(&magic);
            let path = dir.path().join("vmlinuz-6.1");
            std::fs::write(&path, image).unwrap();
            assert_eq!(
                Architecture::ALL.map(|one| Kernel::find(Some(&path), one).is_ok()),
                is,
                "{at}"
            );
        }
    }

    #[test]
    fn two_packages_of_one_name_are_two_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let name = |folder: &str, bytes: &[u8]| {
            let deb = dir.path().join(folder).join("linux-image_6.1.deb");
            std::fs::create_dir_all(deb.parent().unwrap()).unwrap();
            std::fs::write(&deb, bytes).unwrap();
            tree_name(&deb).unwrap()
        };
        assert_ne!(name("a", b"old"), name("b", b"new"));
        assert_eq!(name("a", b"old"), name("c", b"old"));
        assert!(name("a", b"old").starts_with("linux-image_6.1-"));
    }
}
