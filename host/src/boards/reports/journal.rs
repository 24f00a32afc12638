//! Adding a line to a history so that none is lost: one writer at a time, each line wholly or not at all.

use super::{Entry, ReportError};
use crate::fs::atomic::{self, FileError};
use std::io::{Read, Write};
use std::path::Path;

/// Whether a line could be added to this history. Nothing is made or removed for it: where there is no file, its directory is
/// asked, and of a link that leads nowhere yet the one it leads to.
pub fn writable(path: &Path) -> Result<(), ReportError> {
    let failed = |e: std::io::Error| FileError::new(path, e);
    match std::fs::metadata(path) {
        Ok(_) => {
            if !atomic::is_null(path) {
                atomic::regular(path)?;
            }
            std::fs::OpenOptions::new().append(true).open(path).map_err(failed)?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut made = path.to_path_buf();
            while let Ok(to) = std::fs::read_link(&made) {
                made = atomic::folder(&made).join(to);
            }
            let dir = atomic::folder(&made);
            atomic::takes_files(dir)
                .map_err(|e| FileError::new(path, format!("cannot be made in {}: {e}", dir.display())))?;
        }
        Err(e) => return Err(failed(e).into()),
    }
    Ok(())
}

/// Adds a line to a history, one at a time, wholly or not at all. Only who loses power or is killed within the one write may leave
/// a part of it; nothing reads that as a report, and the next line takes its place.
pub fn append(path: &Path, entry: &Entry) -> Result<(), ReportError> {
    let failed = |e: std::io::Error| FileError::new(path, e);
    let line = serde_json::to_string(entry).map_err(|e| FileError::new(path, e))? + "\n";
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.create(true).read(true).append(true).open(path).map_err(failed)?;
    // A device has nothing to bring to a disk.
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(file.write_all(line.as_bytes()).map_err(failed)?);
    }
    // Where there are no locks, the system's own appending has to do.
    let _ = file.lock();
    let mut old = Vec::new();
    file.read_to_end(&mut old).map_err(failed)?;
    let whole = (old.len() - torn(&old).len()) as u64;
    let added = (|| {
        if whole < old.len() as u64 {
            file.set_len(whole)?;
        }
        // Editors may have taken the last line's end.
        if whole > 0 && old[..whole as usize].last() != Some(&b'\n') {
            file.write_all(&[b"\n", line.as_bytes()].concat())?;
        } else {
            file.write_all(line.as_bytes())?;
        }
        file.sync_all()
    })();
    if added.is_err() {
        // A full disk has taken a part of it.
        let _ = file.set_len(whole);
    }
    Ok(added.map_err(failed)?)
}

/// What stands after the last end of a line, if it is the beginning of a report: an append that was cut short.
pub(super) fn torn(text: &[u8]) -> &[u8] {
    let last = text.rsplit(|&b| b == b'\n').next().unwrap_or_default();
    // File systems leave zeros where a length reached the disk and bytes did not.
    if last.contains(&0) && last.iter().rev().skip_while(|b| **b == 0).all(|b| *b != 0) {
        return last;
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(last) {
        Err(e) if e.is_eof() && last.starts_with(b"{") => last,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::super::{entry, history, load};
    use super::*;

    #[test]
    fn a_history_is_known_to_be_writable_without_making_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        assert!(writable(&path).is_ok() && !path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(writable(&path).is_ok() && std::fs::read(&path).unwrap() == b"x");
        let missing = writable(&dir.path().join("no/h.jsonl")).unwrap_err().to_string();
        assert!(
            missing.contains("h.jsonl") && writable(dir.path()).is_err(),
            "{missing}"
        );
        // A link that leads nowhere yet stays one, until there is a line for what it leads to.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("later.jsonl", &link).unwrap();
        assert!(writable(&link).is_ok() && history(&link).unwrap().is_empty() && link.is_symlink());
        append(&link, &entry(sample(), "x").unwrap()).unwrap();
        assert_eq!(history(&dir.path().join("later.jsonl")).unwrap().len(), 1);
        std::os::unix::fs::symlink("no/later.jsonl", dir.path().join("lost")).unwrap();
        assert!(writable(&dir.path().join("lost")).is_err());
    }

    #[test]
    fn a_line_that_was_cut_short_is_no_report_and_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        let one = Entry {
            board: "küche".into(),
            ..entry(sample(), "x").unwrap()
        };
        append(&path, &one).unwrap();
        let line = std::fs::read(&path).unwrap();
        let within = line.windows(2).position(|w| w == "ü".as_bytes()).unwrap() + 1;
        for cut in [1, within, line.len() - 2] {
            std::fs::write(&path, [&line[..], &line[..cut]].concat()).unwrap();
            assert_eq!(load(&path).unwrap().len(), 1, "{cut}");
            append(&path, &one).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [&line[..], &line[..]].concat());
        }
        // What a power failure leaves where a length reached the disk.
        std::fs::write(&path, [&line[..], &line[..40], &[0; 60][..]].concat()).unwrap();
        append(&path, &one).unwrap();
        assert_eq!(load(&path).unwrap().len(), 2);
        // One report as a person reads it: a line after it would make it none.
        let pretty = serde_json::to_string_pretty(&one).unwrap();
        std::fs::write(&path, pretty).unwrap();
        assert!(load(&path).is_ok());
        assert!(history(&path).unwrap_err().to_string().contains("several lines"));
        // All of it but its end: an editor's doing, and a report.
        std::fs::write(&path, &line[..line.len() - 1]).unwrap();
        append(&path, &one).unwrap();
        assert_eq!(load(&path).unwrap().len(), 2);
    }

    #[test]
    fn an_empty_history_is_one_and_an_empty_report_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        std::fs::write(&path, "\n").unwrap();
        assert!(history(&path).unwrap().is_empty() && load(&path).is_err());
        let null = Path::new("/dev/null");
        assert!(writable(null).is_ok() && history(null).unwrap().is_empty());
        append(null, &entry(sample(), "x").unwrap()).unwrap();
        // A pipe that nobody writes to would be waited for; a socket is as little a file, and made without one's help.
        let pipe = dir.path().join("pipe");
        let _held = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
        for error in [load(&pipe).unwrap_err(), writable(&pipe).unwrap_err()] {
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
    }
}
