//! What a running board's system is, asked over ssh: lines of plain `sh` that minimal systems answer too, and what their answers mean.

use thimble_shared::board::architecture::{Answers, System, Unsupported};

/// Asks. Each line of the answer begins with a word that [`told`] knows; what a board does not know is left out.
pub const SCRIPT: &str = "\
echo arch $(uname -m)
echo bits $(getconf LONG_BIT 2>/dev/null)
echo debian $(dpkg --print-architecture 2>/dev/null)
echo class $(head -c 5 /proc/self/exe 2>/dev/null | tail -c 1 | tr '\\001\\002' '12')
";

/// Understands the answer, whatever else stands in it.
///
/// # Errors
/// Where no program for boards runs there.
pub fn told(answer: &str) -> Result<System, Unsupported> {
    let said = |key: &str| {
        let mut lines = answer.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(k, _)| *k == key).map_or("", |(_, value)| value.trim())
    };
    System::of(&Answers {
        machine: said("arch"),
        bits: said("bits"),
        debian: said("debian"),
        class: said("class"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use thimble_shared::board::architecture::Architecture;

    /// What `told` makes of the script on a board whose tools are these, each with what it prints.
    fn asked(tools: &[(&str, &str)]) -> Result<System, Unsupported> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, body) in tools {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let done = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env("PATH", dir.path())
            .output()
            .unwrap();
        told(&String::from_utf8_lossy(&done.stdout))
    }

    #[test]
    fn the_first_tool_that_there_is_tells() {
        use Architecture::{Aarch64, Armv7};
        let uname = ("uname", "echo aarch64");
        let elf = [
            ("head", "printf '\\177ELF\\001'"),
            ("tail", "printf '\\001'"),
            ("tr", "echo 1"),
        ];
        let cases: [(&[(&str, &str)], Architecture); 5] = [
            (&[uname, ("getconf", "echo 32"), ("dpkg", "echo arm64")], Armv7),
            (
                &[
                    uname,
                    ("getconf", "echo no such variable >&2; exit 1"),
                    ("dpkg", "echo armhf"),
                ],
                Armv7,
            ),
            (&[uname, ("dpkg", "echo arm64")], Aarch64),
            (&[uname, elf[0], elf[1], elf[2]], Armv7),
            (&[uname], Aarch64),
        ];
        for (tools, programs) in cases {
            let kernel = Aarch64;
            assert_eq!(asked(tools), Ok(System { kernel, programs }), "{tools:?}");
        }
        assert_eq!(asked(&[("uname", "echo armv6l")]), Err(Unsupported("armv6l".into())));
        assert_eq!(asked(&[]), Err(Unsupported(String::new())));
    }

    #[test]
    fn the_class_of_a_real_program_is_read() {
        let done = Command::new("sh").args(["-c", SCRIPT]).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        let class = if cfg!(target_pointer_width = "64") {
            "class 2"
        } else {
            "class 1"
        };
        assert!(text.lines().any(|line| line == class), "{text}");
    }
}
