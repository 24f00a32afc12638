//! Writes a newc cpio archive: the initramfs a Linux kernel unpacks before anything else runs. Names and contents go in,
//! bytes come out; headers are 110 characters of ASCII, names and contents padded to 4 bytes, the end is `TRAILER!!!`.
//! Times are 0 and inodes count up, so the same input gives the same bytes.

/// An archive under construction; every entry belongs to root.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// Why an entry cannot be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// A file of 4 GiB or more.
    #[error("{name}: {bytes} bytes are more than a cpio archive can hold in one file")]
    TooLarge {
        /// Name of the entry.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// A name that is empty, absolute, leaves the root by `..`, holds a NUL, or is the end's.
    #[error("{0:?} cannot be a name in a cpio archive")]
    Name(String),
}

/// The bits of a mode that say what an entry is.
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a directory; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<(), CpioError> {
        self.entry(name, DIRECTORY | mode, (0, 0), &[])
    }

    /// Adds a regular file; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError::Name`] and [`CpioError::TooLarge`].
    pub fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<(), CpioError> {
        self.entry(name, FILE | mode, (0, 0), contents)
    }

    /// Adds a symbolic link that leads to `to`.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn symlink(&mut self, name: &str, to: &str) -> Result<(), CpioError> {
        self.entry(name, SYMLINK | 0o777, (0, 0), to.as_bytes())
    }

    /// Adds a character device with its numbers; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`CpioError::Name`].
    pub fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        self.entry(name, DEVICE | mode, (major, minor), &[])
    }

    /// The whole archive: its end is added and it is padded to a multiple of 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0, (0, 0), 0);
        // GNU cpio's block size; the kernel takes any.
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> Result<(), CpioError> {
        let relative = !name.is_empty() && !name.starts_with('/') && !name.contains('\0') && name != "TRAILER!!!";
        if !relative || name.split('/').any(|part| part == "..") {
            return Err(CpioError::Name(name.into()));
        }
        let size = u32::try_from(contents.len()).map_err(|_| CpioError::TooLarge {
            name: name.into(),
            bytes: contents.len(),
        })?;
        self.entries += 1;
        self.header(name, self.entries, mode, device, size);
        self.bytes.extend_from_slice(contents);
        self.pad(4);
        Ok(())
    }

    fn header(&mut self, name: &str, inode: u32, mode: u32, device: (u32, u32), size: u32) {
        let links = if mode & KIND == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let name_size = name.len() as u32 + 1;
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_archive_byte_by_byte() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"hello").unwrap();
        let bytes = archive.finish();
        let header = "070701\
            00000001000081A4000000000000000000000001000000000000000500000000000000000000000000000000\
            0000000200000000";
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..120], b"hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn names_that_would_leave_the_root_are_refused() {
        for name in ["", "/init", "../x", "a/../b", "a\0b", "TRAILER!!!"] {
            assert_eq!(
                Archive::default().file(name, 0o644, b""),
                Err(CpioError::Name(name.into()))
            );
        }
    }
}
