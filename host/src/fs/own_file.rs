//! The file this code was loaded from: the program, or the shared library that another program has opened.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Its path; `None` where the system does not tell.
pub fn own_file() -> Option<PathBuf> {
    match std::fs::read("/proc/self/maps") {
        Ok(maps) => holder(&maps, own_file as *const () as usize),
        Err(_) => std::env::current_exe().ok(),
    }
}

/// The file that is mapped at `address`.
fn holder(maps: &[u8], address: usize) -> Option<PathBuf> {
    let number = |text: &[u8]| usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    let holds = |line: &&[u8]| -> Option<bool> {
        let range = line.split(|b| *b == b' ').next()?;
        let mut ends = range.split(|b| *b == b'-');
        let (start, end) = (number(ends.next()?)?, number(ends.next()?)?);
        Some((start..end).contains(&address))
    };
    let line = maps.split(|b| *b == b'\n').find(|line| holds(line) == Some(true))?;
    let path = line.iter().position(|b| *b == b'/')?;
    Some(OsString::from_vec(line[path..].to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_its_own_file() {
        assert_eq!(own_file(), std::env::current_exe().ok());
        let maps =
            b"10-20 r--p 0 08:01 7 /usr/bin/python3\n20-30 r-xp 0 08:01 8   /my lib/x.so\n30-40 rw-p 0 00:00 0 \n";
        assert_eq!(holder(maps, 0x2f), Some("/my lib/x.so".into()));
        assert_eq!(holder(maps, 0x30), None);
        assert_eq!(holder(maps, 0x50), None);
    }
}
