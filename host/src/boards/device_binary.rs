//! Programs for boards, as their ELF headers tell: where the device program for aarch64 is, which machine a program is for, and
//! the largest page it can be mapped with. In: paths or bytes; out: what was found, or why it will not do.

use crate::fs::atomic::FileError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// Where scripts/cross-build leaves it, under the target directory.
const BUILT: &str = "cross/aarch64-unknown-linux-gnu/dist/thimble-device";
/// ELF's number for aarch64.
const AARCH64: u16 = 183;
/// The first bytes of a file that tell all that is asked here: header and program headers of any sane program.
const HEAD: usize = 4096;

/// The device program for aarch64: the one named, or where scripts/cross-build leaves it.
pub fn device_program(named: Option<&Path>) -> Result<PathBuf, FileError> {
    let found = match named {
        Some(path) => Some(path.to_path_buf()),
        None => {
            let beside = std::env::current_exe().ok();
            // target/release/thimble or target/debug/thimble, and the directory the user stands in.
            let targets = beside
                .iter()
                .filter_map(|exe| exe.parent()?.parent())
                .map(Path::to_path_buf);
            targets
                .chain([PathBuf::from("target")])
                .map(|target| target.join(BUILT))
                .find(|path| path.is_file())
        }
    };
    let Some(path) = found else {
        return Err(FileError::new(
            &Path::new("target").join(BUILT),
            "no device program for aarch64; run scripts/cross-build, or name one with --device-program",
        ));
    };
    let failed = |e| FileError::new(&path, e);
    let file = files::open(&path).map_err(failed)?;
    for_boards(&path, &head(&file).map_err(failed)?)?;
    Ok(path)
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
    fn a_program_for_another_machine_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = device_program(Some(&own)).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error.is_err(), !cfg!(target_arch = "aarch64"), "{error:?}");
        assert!(device_program(Some(Path::new("/nonexistent"))).is_err());
    }
}
