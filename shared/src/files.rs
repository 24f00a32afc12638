//! Reading whole files by names that come from elsewhere.

use std::fs;
use std::io::{Error, Result};
use std::path::Path;

/// Refuses what is no regular file: who reads a pipe, a terminal or a device waits for a writer that may never come, or reads for
/// ever.
pub fn regular(path: &Path) -> Result<()> {
    match fs::metadata(path)? {
        meta if meta.is_file() => Ok(()),
        meta if meta.is_dir() => Err(Error::other("is a directory, no file")),
        _ => Err(Error::other("is no regular file; save it to one first")),
    }
}

/// The bytes of a regular file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    regular(path)?;
    fs::read(path)
}

/// The text of a regular file.
pub fn read_text(path: &Path) -> Result<String> {
    regular(path)?;
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let path = std::env::temp_dir().join(format!("thimble-files-{}", std::process::id()));
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refused = |path: &Path| read(path).unwrap_err().to_string();
        assert!(refused(&path).contains("no regular file") && refused(Path::new("/")).contains("directory"));
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        fs::write(&path, "text").unwrap();
        assert_eq!(read_text(&path).unwrap(), "text");
        fs::remove_file(&path).unwrap();
    }
}
