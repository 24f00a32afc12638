//! Reading whole files by names that come from elsewhere.

use std::fs::{self, File, Metadata};
use std::io::{Error, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Refuses what is no regular file: who reads a pipe, a terminal or a device waits for a writer that may never come, or reads for
/// ever.
///
/// # Errors
/// Where the file is not there, or is no regular file.
pub fn regular(path: &Path) -> Result<()> {
    kind(&fs::metadata(path)?)
}

fn kind(meta: &Metadata) -> Result<()> {
    match meta.is_dir() {
        _ if meta.is_file() => Ok(()),
        true => Err(Error::other("is a directory, no file")),
        false => Err(Error::other("is no regular file; save it to one first")),
    }
}

/// A regular file to read from. What took its name in between is not waited for.
///
/// # Errors
/// Where the file cannot be opened, or is no regular file.
pub fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    kind(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of a regular file.
///
/// # Errors
/// Where the file cannot be read, or is no regular file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a regular file.
///
/// # Errors
/// Where the file cannot be read, is no regular file, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let path = std::env::temp_dir().join(format!("thimble-files-{}", std::process::id()));
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refused = |path: &Path| regular(path).unwrap_err().to_string();
        assert!(read(&path).is_err());
        assert!(refused(&path).contains("no regular file") && refused(Path::new("/")).contains("directory"));
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        fs::write(&path, "text").unwrap();
        assert_eq!(read_text(&path).unwrap(), "text");
        fs::remove_file(&path).unwrap();
    }
}
