//! What a Debian package says of itself: its fields and whether Debian takes them, its checksums, scripts, copyright, changelog
//! and lintian overrides. All is text; `deb` writes it.

use super::{CHECK, Entry, PROGRAM, PROGRAMS, PackageError, Payload, SERVICE, SOCKET, UNITS};
use md5::{Digest as _, Md5};
use thimble_shared::board::architecture::Architecture;
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

/// The files of the package's control archive: fields, checksums of the installed `files`, and scripts for its `units`; path, mode
/// and text.
pub(super) fn files(
    control: &Control,
    architecture: Architecture,
    files: &[Entry],
    units: &[&str],
) -> Vec<(&'static str, u32, String)> {
    let kilobytes: u64 = files.iter().map(|f| (f.2.len() as u64).div_ceil(1024)).sum();
    let description = format!(
        "{}\n Made by thimble: one ONNX file that the board maps and computes from,\n \
         the static program that runs it, and units that answer at\n /run/thimble.sock.",
        control.description
    );
    let fields = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {kilobytes}\nSection: science\n\
         Priority: optional\nProvides: {ROLE}\nConflicts: {ROLE}\nReplaces: {ROLE}\nDescription: {description}\n",
        control.name,
        control.version,
        architecture.debian(),
        control.maintainer
    );
    let sums: String = files
        .iter()
        .map(|(path, _, bytes)| {
            let sum: String = Md5::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            format!("{sum}  {path}\n")
        })
        .collect();
    let (postinst, prerm, postrm) = (post_install(units), pre_remove(units), post_remove(units));
    let mut all = vec![
        ("control", 0o644, fields),
        ("md5sums", 0o644, sums),
        ("postinst", 0o755, postinst),
        ("postrm", 0o755, postrm),
    ];
    if architecture == Architecture::Armv7 {
        all.push(("preinst", 0o755, pre_install()));
    }
    all.push(("prerm", 0o755, prerm));
    all
}

/// Refuses a CPU before version 7, for which Raspberry Pi OS has the same name of its packages; elsewhere dpkg refuses by itself.
fn pre_install() -> String {
    format!(
        "#!/bin/sh\nset -e\ncase $(uname -m) in armv[456]*)\n\
         \techo \"thimble-device needs {}; this board is $(uname -m), as Raspberry Pi 1 and Zero are\" >&2\n\
         \texit 1 ;;\nesac\n",
        Architecture::Armv7
    )
}

/// Enables the units as debhelper's scripts do: once, and not against what the board's owner chose since. The server is started
/// again on an upgrade and its socket is not, so requests wait for the new model instead of being refused.
fn post_install(units: &[&str]) -> String {
    let listed = units.join(" ");
    // One that an earlier version had and this one has not.
    let gone = match units.contains(&CHECK) {
        true => String::new(),
        false => format!(
            "\t[ -e /{UNITS}/{CHECK} ] || ! command -v deb-systemd-helper >/dev/null || deb-systemd-helper purge {CHECK} >/dev/null || true\n"
        ),
    };
    format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n\
         {gone}\
         \tif command -v deb-systemd-helper >/dev/null; then\n\
         \t\tfor unit in {listed}; do\n\
         \t\t\tif deb-systemd-helper --quiet was-enabled $unit; then\n\
         \t\t\t\tdeb-systemd-helper enable $unit >/dev/null || true\n\
         \t\t\telse\n\
         \t\t\t\tdeb-systemd-helper update-state $unit >/dev/null || true\n\
         \t\t\tfi\n\
         \t\tdone\n\
         \tfi\n\
         \tif [ -d /run/systemd/system ]; then\n\
         \t\tsystemctl --system daemon-reload >/dev/null || true\n\
         \t\tdeb-systemd-invoke start {SOCKET} >/dev/null || true\n\
         \t\tdeb-systemd-invoke restart {SERVICE} >/dev/null || true\n\
         \tfi\n\
         \tif [ -f /etc/systemd/system/{SERVICE} ]; then\n\
         \t\techo \"note: /etc/systemd/system/{SERVICE} (thimble deploy) goes before this package's; thimble undeploy removes it\" >&2\n\
         \tfi\n\
         fi\n"
    )
}

/// Stops what runs before its files go; an upgrade stops nothing.
fn pre_remove(units: &[&str]) -> String {
    let listed = units.join(" ");
    format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then\n\
         \tdeb-systemd-invoke stop {listed} >/dev/null || true\n\
         fi\n"
    )
}

/// Lets systemd see that the units are gone, and forgets on a purge that they were enabled.
fn post_remove(units: &[&str]) -> String {
    let listed = units.join(" ");
    format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then\n\
         \tsystemctl --system daemon-reload >/dev/null || true\n\
         fi\n\
         if [ \"$1\" = purge ] && command -v deb-systemd-helper >/dev/null; then\n\
         \tdeb-systemd-helper purge {listed} >/dev/null || true\n\
         fi\n"
    )
}

/// The manual page of the device program, from its own help.
pub(super) fn manual() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let help = thimble_device::cli::args::help(None);
    let lines = help.lines().skip(2).map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins so would be a command.
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}\n"),
            false => format!("{line}\n"),
        }
    });
    format!(
        ".TH THIMBLE\\-DEVICE 1 2000-01-01 \"thimble {version}\" \"User Commands\"\n\
         .SH NAME\nthimble\\-device \\- run, measure and serve a thimble model on this board\n\
         .SH DESCRIPTION\n.nf\n{}.fi\n\
         .SH FILES\n.TP\n/run/thimble.sock\nwhere thimble.service answers, one JSON object a line\n",
        lines.collect::<String>()
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
    let program = format!("{PROGRAMS}/{PROGRAM}");
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
    fn scripts_are_for_the_units_there_are() {
        let (few, all) = ([SOCKET, SERVICE], [SOCKET, SERVICE, CHECK]);
        assert!(post_install(&few).contains("purge thimble-check.service"));
        assert!(
            !post_install(&all).contains("purge")
                && post_install(&all).contains("for unit in thimble.socket thimble.service thimble-check.service;")
        );
        assert!(pre_remove(&few).contains("stop thimble.socket thimble.service >"));
        for script in [post_install(&all), pre_remove(&all), post_remove(&all)] {
            assert!(
                script.starts_with("#!/bin/sh\nset -e\n") && script.ends_with("fi\n"),
                "{script}"
            );
            assert!(!script.contains("unmask"), "an owner's mask stays");
        }
    }

    #[test]
    fn the_manual_page_has_no_line_that_would_be_a_command() {
        let page = manual();
        let text = page.split_once(".nf\n").unwrap().1.split_once("\n.fi").unwrap().0;
        assert!(text.contains("thimble\\-device serve") && text.lines().all(|line| !line.starts_with('.')));
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
