//! What a Debian package says of itself: its fields and whether Debian takes them, its checksums, scripts, copyright, changelog
//! and lintian overrides. All is text; `deb` writes it.

use super::deb::Entry;
use super::{LIBRARY, PackageError, Payload, UNIT};
use md5::{Digest as _, Md5};
use thimble_shared::terminal::acts;

/// What the package says of itself.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Name of the package: lower-case letters, digits, `+`, `-` and `.`.
    pub name: &'a str,
    /// Version in Debian's syntax.
    pub version: &'a str,
    /// Name and address, as Debian's `Maintainer` field has them.
    pub maintainer: &'a str,
    /// The first line of Debian's `Description` field.
    pub description: &'a str,
}

/// What every package made here is, whatever its name: they own the same program and unit, so a board has one at a time:
/// dpkg refuses the next one while the first is there.
const ROLE: &str = "thimble-board";

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
    Upstream-Name: thimble\n\
    Comment: The model's weights are under the terms of whoever trained them.\n\
    \n\
    Files: *\n\
    Copyright: the thimble authors\n\
    License: MIT or Apache-2.0\n\
    \n\
    License: MIT\n";

impl Control<'_> {
    /// Refuses what dpkg would refuse or read otherwise.
    pub(super) fn check(&self) -> Result<(), PackageError> {
        let field = |field, value: &str, wanted| PackageError::Field {
            field,
            value: value.into(),
            wanted,
        };
        let name_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
        let (name, version) = (self.name, self.version);
        if name.len() < 2 || !name.bytes().all(name_ok) || !name.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(field(
                "--name",
                name,
                "lower-case letters, digits, + - . are what Debian takes, two at least",
            ));
        }
        if !is_version(version) {
            return Err(field(
                "--release",
                version,
                "a Debian version is [epoch:]version[-revision], the version begins with a digit: 1.0, 1.0~rc1, 2026.1-1, 1:2.0",
            ));
        }
        let one_line = |text: &str| !text.is_empty() && !text.chars().any(acts);
        let mail = self
            .maintainer
            .split_once(" <")
            .is_some_and(|(_, m)| m.ends_with('>') && m.contains('@'));
        if !one_line(self.maintainer) || !mail {
            return Err(field(
                "--maintainer",
                self.maintainer,
                "write it like 'Jane Doe <jane@example.org>'",
            ));
        }
        if !one_line(self.description) || self.description.len() > 79 {
            return Err(field("--description", self.description, "one line of at most 79 bytes"));
        }
        Ok(())
    }
}

/// Debian policy 5.6.12: an epoch is a small number; what stands after the last dash is the revision, which must not be empty.
fn is_version(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let (version, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    let made_of = |text: &str, also: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b))
    };
    epoch.bytes().all(|b| b.is_ascii_digit())
        && epoch.parse::<i32>().is_ok()
        && version.starts_with(|c: char| c.is_ascii_digit())
        && made_of(version, b"+-.~")
        && made_of(revision, b"+.~")
}

/// The files of the package's control archive: fields, checksums of the installed `files`, and scripts; path, mode and text.
pub(super) fn files(control: &Control, files: &[Entry]) -> [(&'static str, u32, String); 5] {
    let kilobytes: u64 = files.iter().map(|f| (f.2.len() as u64).div_ceil(1024)).sum();
    let description = format!(
        "{}\n Made by thimble: one ONNX file that the board maps and computes from,\n \
         the static program that runs it, and a unit that measures both at boot.",
        control.description
    );
    let fields = format!(
        "Package: {}\nVersion: {}\nArchitecture: arm64\nMaintainer: {}\nInstalled-Size: {kilobytes}\nSection: science\n\
         Priority: optional\nProvides: {ROLE}\nConflicts: {ROLE}\nReplaces: {ROLE}\nDescription: {description}\n",
        control.name, control.version, control.maintainer
    );
    let sums: String = files
        .iter()
        .map(|(path, _, bytes)| {
            let sum: String = Md5::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            format!("{sum}  {path}\n")
        })
        .collect();
    let postinst = script(
        &format!("deb-systemd-helper enable {UNIT} >/dev/null 2>&1 || true"),
        "configure",
    );
    let prerm = script(
        &format!("deb-systemd-invoke stop {UNIT} >/dev/null 2>&1 || true"),
        "remove",
    );
    let postrm = script(
        &format!("deb-systemd-helper purge {UNIT} >/dev/null 2>&1 || true"),
        "purge",
    );
    [
        ("control", 0o644, fields),
        ("md5sums", 0o644, sums),
        ("postinst", 0o755, postinst),
        ("postrm", 0o755, postrm),
        ("prerm", 0o755, prerm),
    ]
}

fn script(work: &str, when: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" = {when} ] && command -v {} >/dev/null; then\n\t{work}\nfi\n",
        work.split(' ').next().unwrap_or_default()
    )
}

/// Debian's copyright file.
pub(super) fn copyright() -> String {
    let mit = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT"));
    let indented: String = mit
        .lines()
        .map(|line| match line.trim() {
            "" => " .\n".to_string(),
            line => format!(" {line}\n"),
        })
        .collect();
    format!(
        "{COPYRIGHT}{indented}\nLicense: Apache-2.0\n On Debian systems, the full text of the Apache License, Version 2.0,\n \
         is in /usr/share/common-licenses/Apache-2.0.\n"
    )
}

/// Debian's changelog, of one entry.
pub(super) fn changelog(control: &Control) -> String {
    format!(
        "{} ({}) unstable; urgency=medium\n\n  * Packaged by thimble.\n\n -- {}  Sat, 01 Jan 2000 00:00:00 +0000\n",
        control.name, control.version, control.maintainer
    )
}

/// What lintian is right to ask about and the answer to which is yes.
pub(super) fn overrides(payload: &Payload, name: &str) -> String {
    let program = format!("{LIBRARY}/thimble-device");
    let mut text = String::new();
    if payload.files.iter().any(|f| f.path == program) {
        text += "# One file for every system: no glibc to match.\n";
        text += &format!("{name}: statically-linked-binary [{program}]\n");
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn control() -> Control<'static> {
        Control {
            name: "thimble-x",
            version: "1.0",
            maintainer: "Jane Doe <jane@example.org>",
            description: "a model",
        }
    }

    #[test]
    fn what_debian_would_refuse_is_refused_here() {
        assert!(control().check().is_ok());
        let cases: [(Control, &str); 5] = [
            (
                Control {
                    name: "Big",
                    ..control()
                },
                "--name",
            ),
            (Control { name: "x", ..control() }, "--name"),
            (
                Control {
                    version: "v1",
                    ..control()
                },
                "--release",
            ),
            (
                Control {
                    maintainer: "Jane",
                    ..control()
                },
                "--maintainer",
            ),
            (
                Control {
                    description: "a\nb",
                    ..control()
                },
                "--description",
            ),
        ];
        for (control, part) in cases {
            let error = control.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn versions_are_those_that_dpkg_takes() {
        for good in [
            "1.0",
            "0",
            "1.0~rc1",
            "2026.1-1",
            "1:2.0",
            "1.0-a-1",
            "1.0+b~c-1+deb13u1~x",
        ] {
            assert!(is_version(good), "{good}");
        }
        for bad in [
            "",
            "-",
            "1.0-",
            "-1",
            "v1",
            "1.0_1",
            "1.0-1_2",
            ":1.0",
            "x:1.0",
            "-1:1.0",
            "+1:1.0",
            "4294967296:1",
            "1:",
            "1:x",
            "1:2:3",
            "1 0",
            "1.0/2",
            "1.0-a:1",
        ] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
