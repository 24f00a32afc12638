//! Programs for boards, as their ELF headers tell: where the device program for aarch64 is, which machine a program is for, and
//! the largest page it can be mapped with. In: paths or bytes; out: what was found, or why it will not do.

use crate::fs::atomic::FileError;
use crate::render::text::{detail, remark};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// Where scripts/cross-build leaves it, under the target directory.
const BUILT: &str = "cross/aarch64-unknown-linux-gnu/dist/thimble-device";
/// The device program's name on the board, which no model may have.
pub const PROGRAM: &str = "thimble-device";
/// What it is called where it is installed: with the machine in its name, beside a host program of another one.
const NAMES: [&str; 2] = ["thimble-device-aarch64", PROGRAM];
/// Names it to every command that takes --device-program.
pub const VARIABLE: &str = "THIMBLE_DEVICE";
/// ELF's number for aarch64.
const AARCH64: u16 = 183;
/// The first bytes of a file that tell all that is asked here: header and program headers of any sane program.
const HEAD: usize = 4096;

/// The device program for aarch64: the one named, or the first there is of those that [`places`] lists. Which one
/// it is stands on stderr.
///
/// # Errors
/// Where the one named is no program for boards, or none is found.
pub fn device_program(named: Option<&Path>) -> Result<PathBuf, FileError> {
    let (path, how) = locate(named)?;
    // Who named it on the command line knows.
    let tell = if named.is_some() { detail } else { remark };
    tell(&format!("the board's program: {} ({how})", path.display()));
    Ok(path)
}

/// The device program for aarch64, and how it was found.
///
/// # Errors
/// As [`device_program`].
pub fn locate(named: Option<&Path>) -> Result<(PathBuf, &'static str), FileError> {
    let variable = std::env::var_os(VARIABLE).map(PathBuf::from);
    find(named, variable.as_deref(), &places())
}

fn find(
    named: Option<&Path>,
    variable: Option<&Path>,
    places: &[(PathBuf, &'static str)],
) -> Result<(PathBuf, &'static str), FileError> {
    let variable = variable.filter(|path| !path.as_os_str().is_empty());
    // What a user names is never passed over in silence.
    for (path, how) in [(named, "--device-program"), (variable, VARIABLE)] {
        if let Some(path) = path {
            let failed = |e: String| FileError::new(path, format!("{e} ({how} names it)"));
            let file = files::open(path).map_err(|e| failed(e.to_string()))?;
            let head = head(&file).map_err(|e| failed(e.to_string()))?;
            for_boards(path, &head)?;
            return Ok((path.to_path_buf(), how));
        }
    }
    let fits = |path: &Path| {
        files::open(path)
            .and_then(|f| head(&f))
            .is_ok_and(|head| foreign(&head).is_none())
    };
    match places.iter().find(|(path, _)| fits(path)) {
        Some((path, how)) => Ok((path.clone(), how)),
        None => Err(FileError::new(
            Path::new(PROGRAM),
            format!(
                "no device program for aarch64; scripts/cross-build --install, run in thimble's checkout, builds it and puts it \
                 where thimble looks from every folder; --device-program or {VARIABLE} names another ({} were looked in)",
                folders(places)
            ),
        )),
    }
}

/// Where the device program is looked for, in this order: beside thimble, in the user's and the system's data folders, and where
/// scripts/cross-build leaves it.
pub fn places() -> Vec<(PathBuf, &'static str)> {
    let mut places = Vec::new();
    let exe = std::env::current_exe().ok();
    let beside = exe.as_deref().and_then(Path::parent);
    let named = |dir: PathBuf, how: &'static str| NAMES.map(|name| (dir.join(name), how));
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
    let built = "built by scripts/cross-build";
    let target = beside.and_then(Path::parent);
    places.extend(target.map(|target| (target.join(BUILT), built)));
    places.push((Path::new("target").join(BUILT), built));
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

/// All of a program for boards.
pub fn whole(path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = files::read(path).map_err(|e| FileError::new(path, e))?;
    for_boards(path, &bytes)?;
    Ok(bytes)
}

/// Refuses a program that no board can run, by its head.
pub fn for_boards(path: &Path, head: &[u8]) -> Result<(), FileError> {
    match foreign(head) {
        None => Ok(()),
        Some(_) => Err(FileError::new(
            path,
            "is not an aarch64 program; scripts/cross-build makes one",
        )),
    }
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

/// What a program is for, when that is not aarch64.
pub fn foreign(program: &[u8]) -> Option<String> {
    if program.len() < 20 || !program.starts_with(b"\x7fELF") {
        return Some("of an unknown kind (it is no ELF program)".into());
    }
    let machine = u16::from_le_bytes([program[18], program[19]]);
    match (program[4], program[5], machine) {
        (2, 1, AARCH64) => None,
        (_, 1, 40) => Some("32-bit ARM".into()),
        (_, 1, 62) => Some("x86-64".into()),
        (_, 1, 3) => Some("32-bit x86".into()),
        (_, 1, 243) => Some("RISC-V".into()),
        _ => Some(format!("for ELF machine {machine}")),
    }
}

/// The largest page that the program's segments can be mapped with; `None` where the headers do not tell.
pub fn largest_page(program: &[u8]) -> Option<u64> {
    const LOAD: u64 = 1;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    if foreign(program).is_some() {
        return None;
    }
    let (first, width, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let at = |n: u64| usize::try_from(first.checked_add(n * width)?).ok();
    (0..count)
        .filter_map(|n| {
            let at = at(n)?;
            (number(at, 4)? == LOAD).then(|| number(at.checked_add(48)?, 8))?
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
    fn programs_of_other_machines_are_named() {
        assert_eq!(foreign(&elf(2, 183)), None);
        for (program, part) in [
            (elf(1, 40), "32-bit ARM"),
            (elf(2, 62), "x86-64"),
            (elf(1, 183), "machine 183"),
            (b"#!/bin/busybox sh\nexit 0\n".to_vec(), "no ELF"),
            (vec![], "no ELF"),
        ] {
            assert!(foreign(&program).unwrap().contains(part));
        }
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
    fn the_program_named_wins_and_is_never_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (good, other) = (make("a", &elf(2, 183)), make("b", &elf(2, 183)));
        let (foreign, gone) = (make("c", &elf(2, 62)), dir.path().join("gone"));
        let places = [(gone.clone(), "x"), (foreign.clone(), "y"), (other.clone(), "z")];
        let found = |named: Option<&Path>, variable: Option<&Path>| find(named, variable, &places);
        assert_eq!(
            found(Some(&good), Some(&gone)).unwrap(),
            (good.clone(), "--device-program")
        );
        assert_eq!(found(None, Some(&good)).unwrap(), (good.clone(), VARIABLE));
        // Beside an x86 thimble lies an x86 thimble-device.
        assert_eq!(found(None, None).unwrap(), (other, "z"));
        assert_eq!(found(None, Some(Path::new(""))).unwrap().1, "z");
        for (named, variable, want) in [
            (
                Some(gone.as_path()),
                Some(good.as_path()),
                "(--device-program names it)",
            ),
            (None, Some(gone.as_path()), "(THIMBLE_DEVICE names it)"),
            (None, Some(foreign.as_path()), "is not an aarch64 program"),
        ] {
            let error = found(named, variable).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let none = find(None, None, &places[..2]).unwrap_err().to_string();
        assert!(
            none.contains("no device program for aarch64") && none.contains("THIMBLE_DEVICE"),
            "{none}"
        );
    }

    #[test]
    fn a_program_for_another_machine_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = device_program(Some(&own)).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error.is_err(), !cfg!(target_arch = "aarch64"), "{error:?}");
        assert!(device_program(Some(Path::new("/nonexistent"))).is_err());
    }
}
