//! Programs for boards, as their ELF headers tell: where the device program for an architecture is, and the largest page it can be
//! mapped with. In: paths or bytes; out: what was found, or why it will not do.

use crate::fs::atomic::FileError;
use crate::render::text::{detail, remark};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thimble_shared::board::architecture::Architecture;
use thimble_shared::files;

/// The device program's name on the board, which no model may have.
pub const PROGRAM: &str = "thimble-device";
/// Names it to every command that takes --device-program.
pub const VARIABLE: &str = "THIMBLE_DEVICE";
/// The first bytes of a file that tell all that is asked here: header and program headers of any sane program.
const HEAD: usize = 4096;

/// A device program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Who named it, or where it was found, for people.
    pub how: &'static str,
    /// What it is for.
    pub architecture: Architecture,
}

/// The device program for an architecture: the one named, or the first there is of those that [`places`] lists. Which one
/// it is stands on stderr.
///
/// # Errors
/// Where the one named is no program for that architecture, or none is found.
pub fn device_program(named: Option<&Path>, architecture: Architecture) -> Result<PathBuf, FileError> {
    let found = locate(named, architecture)?;
    found.tell();
    Ok(found.path)
}

impl Found {
    /// Says which program it is.
    pub fn tell(&self) {
        // Who named it on the command line knows.
        let tell = if self.how == NAMED { detail } else { remark };
        tell(&format!("the board's program: {} ({})", self.path.display(), self.how));
    }
}

/// The device program for an architecture, and how it was found.
///
/// # Errors
/// As [`device_program`].
pub fn locate(named: Option<&Path>, architecture: Architecture) -> Result<Found, FileError> {
    match chosen(named)? {
        Some(found) if found.architecture == architecture => Ok(found),
        Some(found) => Err(FileError::new(
            &found.path,
            format!(
                "is a program for {}, not for {architecture}; {} makes one ({} names it)",
                found.architecture,
                architecture.build(),
                found.how
            ),
        )),
        None => find(&places(architecture), architecture),
    }
}

/// The device program that the command line or the variable names, for whichever architecture it is.
///
/// # Errors
/// Where the one named is no program for boards.
pub fn chosen(named: Option<&Path>) -> Result<Option<Found>, FileError> {
    let variable = std::env::var_os(VARIABLE).map(PathBuf::from);
    choose(named, variable.as_deref())
}

/// How the command line names one.
const NAMED: &str = "--device-program";

/// What a user names is never passed over in silence.
fn choose(named: Option<&Path>, variable: Option<&Path>) -> Result<Option<Found>, FileError> {
    let variable = variable.filter(|path| !path.as_os_str().is_empty());
    let both = [(named, NAMED), (variable, VARIABLE)];
    let Some((path, how)) = both.into_iter().find_map(|(path, how)| Some((path?, how))) else {
        return Ok(None);
    };
    let failed = |e: String| FileError::new(path, format!("{e} ({how} names it)"));
    let file = files::open(path).map_err(|e| failed(e.to_string()))?;
    let head = head(&file).map_err(|e| failed(e.to_string()))?;
    Ok(Some(Found {
        path: path.to_path_buf(),
        how,
        architecture: for_boards(path, &head)?,
    }))
}

/// The first of the places that holds a program for the architecture: one for another machine is passed over.
fn find(places: &[(PathBuf, &'static str)], architecture: Architecture) -> Result<Found, FileError> {
    let fits = |path: &Path| {
        files::open(path)
            .and_then(|f| head(&f))
            .is_ok_and(|head| Architecture::of_program(&head) == Ok(architecture))
    };
    match places.iter().find(|(path, _)| fits(path)) {
        Some((path, how)) => Ok(Found {
            path: path.clone(),
            how,
            architecture,
        }),
        None => Err(FileError::new(
            Path::new(PROGRAM),
            format!(
                "no device program for {architecture}; {} --install, run in thimble's checkout, builds it and puts it \
                 where thimble looks from every folder; --device-program or {VARIABLE} names another ({} were looked in)",
                architecture.build(),
                folders(places)
            ),
        )),
    }
}

/// Where the device program is looked for, in this order: beside thimble, in the user's and the system's data folders, and where
/// scripts/cross-build leaves it.
pub fn places(architecture: Architecture) -> Vec<(PathBuf, &'static str)> {
    let mut places = Vec::new();
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    // Where it is installed it may have the machine in its name, beside a host program of another one.
    let names = [format!("{PROGRAM}-{}", architecture.name()), PROGRAM.to_string()];
    let named = |dir: PathBuf, how: &'static str| names.each_ref().map(|name| (dir.join(name), how));
    if let Some(dir) = beside {
        places.extend(named(dir.to_path_buf(), "beside thimble"));
        places.extend(
            dir.parent()
                .into_iter()
                .flat_map(|up| named(up.join("lib/thimble"), "beside thimble")),
        );
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty());
    let data = data.map(PathBuf::from).or(home);
    places.extend(
        data.into_iter()
            .flat_map(|dir| named(dir.join("thimble"), "your data folder")),
    );
    places.extend(named("/usr/lib/thimble".into(), "the system's folder"));
    // target/release/thimble or target/debug/thimble, and the directory the user stands in.
    let built = format!("cross/{}/dist/{PROGRAM}", architecture.triple());
    let how = "built by scripts/cross-build";
    let target = beside.and_then(Path::parent);
    places.extend(target.map(|target| (target.join(&built), how)));
    places.push((Path::new("target").join(&built), how));
    places
}

/// The folders of the places, each once.
fn folders(places: &[(PathBuf, &'static str)]) -> String {
    let mut told: Vec<String> = Vec::new();
    for dir in places.iter().filter_map(|(path, _)| path.parent()) {
        let dir = dir.display().to_string();
        if !told.contains(&dir) {
            told.push(dir);
        }
    }
    told.join(", ")
}

/// All of a program for boards, and what it is for.
///
/// # Errors
/// Where it cannot be read, or no board can run it.
pub fn whole(path: &Path) -> Result<(Vec<u8>, Architecture), FileError> {
    let bytes = files::read(path).map_err(|e| FileError::new(path, e))?;
    let architecture = for_boards(path, &bytes)?;
    Ok((bytes, architecture))
}

/// What a program is for, by its head.
///
/// # Errors
/// Where no board can run it.
pub fn for_boards(path: &Path, head: &[u8]) -> Result<Architecture, FileError> {
    Architecture::of_program(head).map_err(|_| {
        let [usual, other] = Architecture::ALL;
        let told = format!("is no program for {usual} or {other}; {} makes one", usual.build());
        FileError::new(path, told)
    })
}

/// As much of a program as the functions here look at.
pub fn head(file: &File) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let mut len = 0;
    while len < HEAD {
        match file.read_at(&mut head[len..], len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    head.truncate(len);
    Ok(head)
}

/// The largest page that the program's segments can be mapped with; `None` where the headers do not tell.
pub fn largest_page(program: &[u8]) -> Option<u64> {
    const LOAD: u64 = 1;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    // Where the program headers are, how long each is, how many there are; in one, the last field is the alignment.
    let (first, width, count, align, field) = match Architecture::of_program(program).ok()? {
        Architecture::Aarch64 => (number(32, 8)?, number(54, 2)?, number(56, 2)?, 48, 8),
        Architecture::Armv7 => (number(28, 4)?, number(42, 2)?, number(44, 2)?, 28, 4),
    };
    let at = |n: u64| usize::try_from(first.checked_add(n * width)?).ok();
    (0..count)
        .filter_map(|n| {
            let at = at(n)?;
            (number(at, 4)? == LOAD).then(|| number(at.checked_add(align)?, field))?
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, machine: u8) -> Vec<u8> {
        let mut head = b"\x7fELF\0\x01\x01".to_vec();
        head[4] = class;
        head.resize(18, 0);
        head.extend([machine, 0]);
        head
    }

    #[test]
    fn the_least_alignment_of_what_is_loaded_counts() {
        let mut program = elf(2, 183);
        program.resize(64 + 3 * 56, 0);
        (program[32], program[54], program[56]) = (64, 56, 3);
        for (n, kind, align) in [(0, 1u8, 0x1_0000u64), (1, 6, 8), (2, 1, 0x4000)] {
            let at = 64 + 56 * n;
            program[at] = kind;
            program[at + 48..at + 56].copy_from_slice(&align.to_le_bytes());
        }
        assert_eq!(largest_page(&program), Some(0x4000));
        // Headers that lead nowhere tell nothing.
        for cut in 0..program.len() {
            let _ = largest_page(&program[..cut]);
        }
        program[32..40].fill(0xff);
        assert_eq!(largest_page(&program), None);
        assert_eq!(largest_page(&elf(2, 62)), None);
    }

    #[test]
    fn a_program_of_32_bits_has_its_alignment_elsewhere() {
        let mut program = elf(1, 40);
        program.resize(52 + 2 * 32, 0);
        (program[28], program[42], program[44]) = (52, 32, 2);
        for (n, kind, align) in [(0, 1u8, 0x1_0000u32), (1, 6, 4)] {
            let at = 52 + 32 * n;
            program[at] = kind;
            program[at + 28..at + 32].copy_from_slice(&align.to_le_bytes());
        }
        assert_eq!(largest_page(&program), Some(0x1_0000));
        for cut in 0..program.len() {
            let _ = largest_page(&program[..cut]);
        }
        program[28..32].fill(0xff);
        assert_eq!(largest_page(&program), None);
    }

    #[test]
    fn the_program_named_wins_and_is_never_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (good, small, other) = (make("a", &elf(2, 183)), make("s", &elf(1, 40)), make("b", &elf(2, 183)));
        let (foreign, gone) = (make("c", &elf(2, 62)), dir.path().join("gone"));
        let taken = |named: Option<&Path>, variable: Option<&Path>| {
            let found = choose(named, variable)?;
            Ok::<_, FileError>(found.map(|found| (found.path, found.how, found.architecture)))
        };
        let (aarch64, armv7) = (Architecture::Aarch64, Architecture::Armv7);
        assert_eq!(
            taken(Some(&good), Some(&gone)).unwrap(),
            Some((good.clone(), NAMED, aarch64))
        );
        assert_eq!(
            taken(None, Some(&small)).unwrap(),
            Some((small.clone(), VARIABLE, armv7))
        );
        assert_eq!(taken(None, Some(Path::new(""))).unwrap(), None);
        for (named, variable, want) in [
            (
                Some(gone.as_path()),
                Some(good.as_path()),
                "(--device-program names it)",
            ),
            (None, Some(gone.as_path()), "(THIMBLE_DEVICE names it)"),
            (None, Some(foreign.as_path()), "is no program for aarch64"),
        ] {
            let error = taken(named, variable).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let error = locate(Some(&small), aarch64).unwrap_err().to_string();
        assert!(
            error.contains("is a program for armv7") && error.contains("scripts/cross-build makes one"),
            "{error}"
        );
        // Beside an x86 thimble lies an x86 thimble-device.
        let places = [(gone, "w"), (foreign, "x"), (small.clone(), "y"), (other.clone(), "z")];
        let found =
            |architecture, last: usize| find(&places[..last], architecture).map(|found| (found.path, found.how));
        assert_eq!(found(aarch64, 4).unwrap(), (other, "z"));
        assert_eq!(found(armv7, 4).unwrap(), (small, "y"));
        let none = found(aarch64, 3).unwrap_err().to_string();
        assert!(
            none.contains("no device program for aarch64") && none.contains("THIMBLE_DEVICE"),
            "{none}"
        );
        let none = found(armv7, 2).unwrap_err().to_string();
        assert!(none.contains("scripts/cross-build --target armv7-"), "{none}");
    }

    #[test]
    fn a_program_for_another_machine_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = device_program(Some(&own), Architecture::Aarch64)
            .map(|_| ())
            .map_err(|e| e.to_string());
        assert_eq!(error.is_err(), !cfg!(target_arch = "aarch64"), "{error:?}");
        assert!(device_program(Some(Path::new("/nonexistent")), Architecture::Armv7).is_err());
    }
}
