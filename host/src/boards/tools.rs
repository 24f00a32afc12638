//! Other people's programs that commands call, as a table: which command needs each, and what installs it. In: names; out: where a
//! program is, or an error that says how to get it. `doctor` prints the table, long commands ask it before they begin.

use crate::fs::subprocess::{ToolError, search_path};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use thimble_shared::board::architecture::Architecture;

/// A program that thimble starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its name in the search path.
    pub name: &'static str,
    /// Debian's package.
    pub package: &'static str,
    /// Homebrew's formula; empty where there is none.
    pub formula: &'static str,
    /// What thimble does with it.
    pub does: &'static str,
    /// Commands and scripts that call it.
    pub commands: &'static [&'static str],
    /// Whether these do without it under a condition that `does` names.
    pub optional: bool,
}

const fn tool(
    name: &'static str,
    (package, formula): (&'static str, &'static str),
    does: &'static str,
    commands: &'static [&'static str],
    optional: bool,
) -> Tool {
    Tool {
        name,
        package,
        formula,
        does,
        commands,
        optional,
    }
}

/// The virtual board.
pub const QEMU: &str = "qemu-system-aarch64";
/// The one of 32 bits.
const QEMU_32: &str = "qemu-system-arm";

/// The virtual board of an architecture.
pub const fn qemu(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Aarch64 => QEMU,
        Architecture::Armv7 => QEMU_32,
    }
}

/// Every program there is a call of.
pub const TOOLS: &[Tool] = &[
    tool(
        "ssh",
        ("openssh-client", "openssh"),
        "reaches boards",
        &["deploy", "ask", "undeploy", "targets --probe"],
        false,
    ),
    tool(
        QEMU,
        ("qemu-system-arm", "qemu"),
        "is the virtual board",
        &["emulate"],
        false,
    ),
    tool(
        QEMU_32,
        ("qemu-system-arm", "qemu"),
        "is the virtual board of 32 bits",
        &["emulate"],
        true,
    ),
    tool(
        "mke2fs",
        ("e2fsprogs", "e2fsprogs"),
        "makes the virtual board's disk",
        &["emulate"],
        false,
    ),
    tool(
        "dpkg-deb",
        ("dpkg", "dpkg"),
        "unpacks a kernel's package; a kernel given as an Image needs none",
        &["emulate"],
        true,
    ),
    tool(
        "xz",
        ("xz-utils", "xz"),
        "unpacks modules of Debian's kernels",
        &["emulate"],
        false,
    ),
    tool(
        "zstd",
        ("zstd", "zstd"),
        "unpacks modules of Ubuntu's kernels",
        &["emulate"],
        true,
    ),
    tool(
        "gzip",
        ("gzip", "gzip"),
        "unpacks modules of kernels that have them so",
        &["emulate"],
        true,
    ),
    tool(
        "apt-get",
        ("apt", ""),
        "fetches Debian's kernel; --kernel names another",
        &["emulate"],
        true,
    ),
    tool(
        "debugfs",
        ("e2fsprogs", "e2fsprogs"),
        "writes into a card's image without root",
        &["install --image"],
        false,
    ),
    tool(
        "e2fsck",
        ("e2fsprogs", "e2fsprogs"),
        "checks the card's file system afterwards",
        &["install --image"],
        false,
    ),
    tool(
        "cargo",
        ("cargo", "rust"),
        "builds the board's program, where none is there yet",
        &["scripts/cross-build"],
        true,
    ),
    tool(
        "aarch64-linux-gnu-gcc",
        ("gcc-aarch64-linux-gnu", ""),
        "links the board's program; AARCH64_LINKER names another",
        &["scripts/cross-build"],
        true,
    ),
    tool(
        "arm-linux-gnueabihf-gcc",
        ("gcc-arm-linux-gnueabihf", ""),
        "links the program for 32-bit boards; ARMV7_LINKER names another",
        &["scripts/cross-build"],
        true,
    ),
    tool(
        "qemu-aarch64",
        ("qemu-user", ""),
        "runs the board's program on this machine",
        &["scripts/device-on-arm", "scripts/test-aarch64"],
        true,
    ),
    tool(
        "qemu-arm",
        ("qemu-user", ""),
        "runs the program for 32-bit boards on this machine",
        &["scripts/device-on-arm"],
        true,
    ),
    tool(
        "git",
        ("git", "git"),
        "tells package's maintainer; --maintainer names one",
        &["package"],
        true,
    ),
];

impl Tool {
    /// Where it is, in PATH or in the administrator's directories.
    pub fn found(&self) -> Option<PathBuf> {
        let runs = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        search_path().map(|dir| dir.join(self.name)).find(runs)
    }

    /// The line that installs it here.
    pub fn install(&self) -> String {
        match cfg!(target_os = "macos") && !self.formula.is_empty() {
            true => format!("brew install {}", self.formula),
            false => format!("apt-get install {}", self.package),
        }
    }

    fn need(&self) -> Result<(), ToolError> {
        match self.found() {
            Some(_) => Ok(()),
            None => {
                let system = if cfg!(target_os = "macos") { "macOS" } else { "Debian" };
                let text = format!(
                    "is not installed; it {}. Install it ({system}: {})",
                    self.does,
                    self.install()
                );
                Err(ToolError::new(self.name, text))
            }
        }
    }
}

/// An error about the first of `names` that is not there, before any long work.
///
/// # Errors
/// Where one is missing.
pub fn need(names: &[&str]) -> Result<(), ToolError> {
    let mut named = TOOLS.iter().filter(|tool| names.contains(&tool.name));
    named.try_for_each(Tool::need)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_told_with_the_line_that_installs_it() {
        let gone = tool(
            "no-such-tool-of-thimble",
            ("a-package", ""),
            "does nothing",
            &["emulate"],
            false,
        );
        assert_eq!(gone.found(), None);
        let error = gone.need().unwrap_err().to_string();
        assert!(error.contains("no-such-tool-of-thimble: is not installed") && error.contains("install a-package"));
        let sh = tool("sh", ("dash", ""), "runs scripts", &[], false);
        assert!(sh.found().is_some() && sh.need().is_ok());
        let mut names: Vec<_> = TOOLS.iter().map(|t| t.name).collect();
        names.dedup();
        assert_eq!(names.len(), TOOLS.len());
    }
}
