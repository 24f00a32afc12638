//! e2fsprogs' debugfs and e2fsck on one partition of an image, which needs no root and no mount: files are read, written and
//! read back. debugfs ends with 0 whatever happened, so nothing it did is believed before it was looked at again.

use super::CardError;
use super::partition::Partition;
use crate::fs::scratch::Scratch;
use crate::fs::subprocess::{ToolError, complaint};
use std::path::{Path, PathBuf};
use std::process::Output;

/// One partition of one image. Tools run in a directory of their own, where the image has a plain name: `?` and blanks in a
/// user's path would mean something to them.
pub struct FileSystem {
    dir: Scratch,
    device: String,
}

/// What debugfs says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// "regular", "directory", "symlink", …
    pub kind: String,
    /// Permission bits, set-user, set-group and sticky included.
    pub mode: u32,
    /// User and group, by number.
    pub owner: (u32, u32),
    /// Size of the content.
    pub bytes: u64,
    /// Where a symbolic link leads; `None` for anything else.
    pub link: Option<String>,
}

/// What Linux lets a path have.
const LONGEST_LINK: u64 = 4096;

impl FileSystem {
    /// Prepares a folder in which tools find the image; nothing is opened yet.
    ///
    /// # Errors
    /// Where the image is not there, or no temporary folder can be made.
    pub fn of(image: &Path, partition: &Partition) -> Result<FileSystem, CardError> {
        let failed = |e: std::io::Error| CardError::file(image, e);
        let image = image.canonicalize().map_err(failed)?;
        let dir = Scratch::new().map_err(|e| CardError::file(&std::env::temp_dir(), e))?;
        std::os::unix::fs::symlink(&image, dir.path().join("image")).map_err(failed)?;
        Ok(FileSystem {
            dir,
            device: format!("image?offset={}", partition.offset),
        })
    }

    fn tool(&self, tool: &'static str, arguments: &[&str]) -> Result<Output, CardError> {
        crate::fs::subprocess::tool(tool)
            .env("DEBUGFS_PAGER", "cat")
            .args(arguments)
            .arg(&self.device)
            .current_dir(self.dir.path())
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|e| ToolError::start(tool, &e, "install it (Debian: apt-get install e2fsprogs)").into())
    }

    /// Runs debugfs commands and gives what they print.
    fn debugfs(&self, write: bool, script: &str) -> Result<String, CardError> {
        let at = self.dir.path().join("script");
        std::fs::write(&at, script).map_err(|e| CardError::file(&at, e))?;
        let write: &[&str] = if write { &["-w"] } else { &[] };
        let done = self.tool("debugfs", &[write, &["-f", "script"]].concat())?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        // It says on stderr that it could not open the file system, and goes on to say so at every command.
        if !done.status.success() || String::from_utf8_lossy(&done.stderr).contains("while trying to open") {
            return Err(ToolError::new("debugfs", complaint(&done)).into());
        }
        Ok(text)
    }

    /// What lies at `path`, links in its directories followed within the image, itself not.
    ///
    /// # Errors
    /// Where debugfs fails, or the path cannot be named to it.
    pub fn stat(&self, path: &str) -> Result<Option<Stat>, CardError> {
        let mut stat = parse_stat(&self.debugfs(false, &format!("stat {}\n", quote(path)?))?);
        // Where a long link leads is in its data.
        if let Some(stat) = &mut stat
            && stat.kind == "symlink"
            && stat.link.is_none()
            && stat.bytes <= LONGEST_LINK
        {
            stat.link = String::from_utf8(self.dump(path)?).ok();
        }
        Ok(stat)
    }

    fn dump(&self, path: &str) -> Result<Vec<u8>, CardError> {
        let out = self.dir.path().join("out");
        let _ = std::fs::remove_file(&out);
        self.debugfs(false, &format!("dump {} out\n", quote(path)?))?;
        std::fs::read(&out).map_err(|e| CardError::file(&out, e))
    }

    /// The bytes of a regular file of at most `most` bytes.
    ///
    /// # Errors
    /// Where debugfs fails, or the path cannot be named to it.
    pub fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, CardError> {
        match self.stat(path)? {
            Some(stat) if stat.kind == "regular" && stat.bytes <= most => {}
            _ => return Ok(None),
        }
        self.dump(path).map(Some)
    }

    /// `path` with its last part's links followed, as far as they lead to something.
    ///
    /// # Errors
    /// Where debugfs fails, or the path cannot be named to it.
    pub fn follow(&self, path: &str) -> Result<Option<String>, CardError> {
        let mut path = path.to_string();
        for _ in 0..16 {
            match self.stat(&path)? {
                None => return Ok(None),
                Some(Stat { link: Some(to), .. }) if to.starts_with('/') => path = to,
                Some(Stat { link: Some(to), .. }) => {
                    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                    path = format!("{dir}/{to}");
                }
                Some(_) => return Ok(Some(path)),
            }
        }
        Ok(None)
    }

    /// Applies commands that may name staged files by the names [`FileSystem::stage`] gave them.
    ///
    /// # Errors
    /// Where debugfs fails.
    pub fn write(&self, script: &str) -> Result<(), CardError> {
        self.debugfs(true, script).map(drop)
    }

    /// A file for debugfs to take in, under a name that needs no quoting.
    pub fn stage(&self, number: usize, bytes: &[u8]) -> Result<String, CardError> {
        let name = format!("staged{number}");
        let at: PathBuf = self.dir.path().join(&name);
        std::fs::write(&at, bytes).map_err(|e| CardError::file(&at, e))?;
        Ok(name)
    }

    /// What e2fsck has against it; `None` when nothing.
    ///
    /// # Errors
    /// Where e2fsck cannot be run.
    pub fn unsound(&self) -> Result<Option<String>, CardError> {
        let done = self.tool("e2fsck", &["-fn"])?;
        // 1 to 7 is what it found; above, or ended by a signal, it did not look.
        if done.status.code().is_none_or(|code| code >= 8) {
            let told = format!(
                "could not check the file system ({}): {}",
                done.status,
                complaint(&done)
            );
            return Err(ToolError::new("e2fsck", told).into());
        }
        Ok((done.status.code() != Some(0)).then(|| {
            // Its first complaint is the cause, its last words are a summary.
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            let first = text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("Pass "));
            crate::render::text::printable(first.unwrap_or(&complaint(&done)))
        }))
    }
}

/// A path as debugfs reads it back: in double quotes, with nothing in it that would end them.
fn quote(path: &str) -> Result<String, CardError> {
    match path.chars().any(|c| c.is_control() || c == '"') {
        true => Err(CardError::Path(path.into())),
        false => Ok(format!("\"{path}\"")),
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The first line repeats the command, and with it a path that might hold any of these words.
    let (_, text) = text.split_once("\nInode: ").or_else(|| text.split_once("Inode: "))?;
    let after = |name: &str| -> Option<String> {
        let rest = text.split_once(name)?.1.trim_start();
        Some(rest.split([' ', '\n']).next().unwrap_or_default().to_string())
    };
    let link = text
        .split_once("Fast link dest: \"")
        .and_then(|(_, rest)| Some(rest.rsplit_once('"')?.0.to_string()));
    Some(Stat {
        kind: after("Type:")?,
        mode: u32::from_str_radix(&after("Mode:")?, 8).ok()?,
        owner: (after("User:")?.parse().ok()?, after("Group:")?.parse().ok()?),
        bytes: after("Size:")?.parse().ok()?,
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_understood_and_a_missing_file_is_none() {
        let text = "debugfs: stat \"/bin/sh\"\nInode: 18   Type: symlink    Mode:  0777   Flags: 0x0\n\
            Generation: 0    Version: 0x00000000:00000000\nUser:     5   Group:     7   Project:     0   Size: 4\n\
            File ACL: 0\nFast link dest: \"dash\"\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.kind.as_str(), stat.mode, stat.owner, stat.bytes),
            ("symlink", 0o777, (5, 7), 4)
        );
        assert_eq!(stat.link.as_deref(), Some("dash"));
        assert_eq!(parse_stat("debugfs: stat \"/x Type: regular\"\n"), None);
    }

    #[test]
    fn a_path_cannot_become_a_command() {
        assert_eq!(quote("/a b").unwrap(), "\"/a b\"");
        for bad in ["/a\"b", "/a\nrm /b"] {
            assert!(quote(bad).is_err());
        }
    }
}
