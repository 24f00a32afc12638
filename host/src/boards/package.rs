//! What a board gets and where it lies: device program, model, tokenizer, a systemd unit, licences. The same list of files
//! goes into a mounted root file system or into an arm64 Debian package, which is written here: an `ar` archive of two gzip
//! tars with one fixed date and entries in a fixed order, so the same input gives the same bytes.

pub use crate::boards::device_binary::PROGRAM;
use flate2::{Compression, GzBuilder};
use md5::{Digest as _, Md5};
use std::io::Write;
use std::path::Path;
use thimble_device::image::digest::sha256;
use thimble_shared::terminal::acts;
use thimble_text::tokenizer_beside;

/// Where everything lies on the board, without the leading slash.
pub const LIBRARY: &str = "usr/lib/thimble";
const UNITS: &str = "usr/lib/systemd/system";
/// The unit's file name: it measures the model once at boot.
pub const UNIT: &str = "thimble-check.service";

/// Why a package cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A name or text that shells, systemd or dpkg would read otherwise.
    #[error("{field} {value:?}: {wanted}")]
    Field {
        /// Which one it is, for people.
        field: &'static str,
        /// The value that was given.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Writing or compressing the archive failed.
    #[error("the archive cannot be written: {0}")]
    Archive(#[from] std::io::Error),
}

/// One file of a payload.
pub struct PackagedFile {
    /// From the root of the board's file system, without the leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The whole content.
    pub bytes: Vec<u8>,
}

/// What a board gets.
pub struct Payload {
    /// Sorted by path.
    pub files: Vec<PackagedFile>,
}

/// Where a system's owner puts units, which go before those of packages.
pub const OWN_UNITS: &str = "etc/systemd/system";
/// Where a unit's name leads there when it was masked: systemd will not start it, enabled or not.
pub const MASK: &str = "/dev/null";
/// Where systemd looks for what to start at boot.
pub const WANTS: &str = "etc/systemd/system/multi-user.target.wants";

impl Payload {
    /// The files in the order they are installed: the unit comes last, so that a boot never finds one whose program is missing.
    pub fn in_order(&self) -> Vec<&PackagedFile> {
        let (units, others): (Vec<&PackagedFile>, Vec<&PackagedFile>) =
            self.files.iter().partition(|f| f.path.starts_with(UNITS));
        others.into_iter().chain(units).collect()
    }

    /// The link that enables the unit, as systemctl makes it: its path, and where it leads.
    pub fn enabling(&self) -> (String, String) {
        (format!("{WANTS}/{UNIT}"), format!("/{UNITS}/{UNIT}"))
    }
}

/// What is said of a name that [`plain_name`] refuses.
pub const PLAIN_NAME: &str =
    "on the board it goes into commands and a unit file; use letters, digits, dots and dashes, a dash not first";

/// Whether a file may have this name on the board: shells, systemd and tools must take it for a name and nothing else.
pub fn plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    !matches!(name, "" | "." | "..") && !name.starts_with(['-', '+']) && name.bytes().all(plain)
}

/// Collects what the board gets: bytes that were looked at. The model is installed under its own name, its tokenizer beside it.
///
/// # Errors
/// [`PackageError::Field`] where the model's file name is not plain or is the device program's.
pub fn payload(
    model: &Path,
    bytes: Vec<u8>,
    tokenizer: Option<Vec<u8>>,
    program: Vec<u8>,
    max_ram: Option<u64>,
) -> Result<Payload, PackageError> {
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !plain_name(&name) || name == PROGRAM {
        return Err(PackageError::Field {
            field: "the model's file name",
            value: name,
            wanted: PLAIN_NAME,
        });
    }
    let at = |path: &str, mode: u32, bytes: Vec<u8>| PackagedFile {
        path: path.to_string(),
        mode,
        bytes,
    };
    // Only another package replaces the model where it will lie: one that is not as it was shipped is damaged.
    let mut bench = vec!["--sha256".to_string(), sha256(&bytes)];
    bench.extend(
        max_ram
            .into_iter()
            .flat_map(|most| ["--max-ram".to_string(), most.to_string()]),
    );
    let mut files = vec![
        at(&format!("{LIBRARY}/thimble-device"), 0o755, program),
        at(&format!("{LIBRARY}/{name}"), 0o644, bytes),
    ];
    if let Some(bytes) = tokenizer {
        let name = tokenizer_beside(Path::new(&name)).display().to_string();
        files.push(at(&format!("{LIBRARY}/{name}"), 0o644, bytes));
    }
    let unit = unit(&format!("/{LIBRARY}"), &name, &bench, max_ram, None);
    files.push(at(&format!("{UNITS}/{UNIT}"), 0o644, unit.into_bytes()));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Payload { files })
}

/// The unit that measures the model at boot and leaves the report for whoever collects it. `dir` holds program and model;
/// `bench` are the device program's options, plain words; `user` runs it, or a user made up for the unit.
pub fn unit(dir: &str, model: &str, bench: &[String], max_ram: Option<u64>, user: Option<&str>) -> String {
    let memory = max_ram.map_or(String::new(), |bytes| format!("MemoryMax={bytes}\n"));
    let bench: String = bench.iter().map(|word| format!(" {word}")).collect();
    let user = match user {
        Some(user) => format!("User={user}\n"),
        None => "DynamicUser=yes\n".into(),
    };
    // A home directory holds what deploy sends; the package's files lie outside of homes.
    let home = if dir.starts_with("/usr/") { "yes" } else { "read-only" };
    format!(
        "[Unit]\n\
         Description=Measure the thimble model {model} on this board\n\
         After=multi-user.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # The last report stays until there is a new one. 1: a limit does not hold, and the report says which.\n\
         ExecStart=/bin/sh -c 'cd \"$STATE_DIRECTORY\" && {{ \"{dir}/thimble-device\" bench \"{dir}/{model}\" --json{bench} > report.part; rc=$?; }} && [ $rc -le 1 ] && mv report.part report.json; exit $rc'\n\
         StateDirectory=thimble\n\
         {user}{memory}\
         ProtectSystem=strict\n\
         ProtectHome={home}\n\
         PrivateTmp=yes\n\
         PrivateNetwork=yes\n\
         NoNewPrivileges=yes\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

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

/// A file in a tar: its path, its mode, its bytes.
type Entry<'a> = (&'a str, u32, &'a [u8]);

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

/// The bytes of an arm64 package.
///
/// # Errors
/// [`PackageError::Field`] for a path or a field that dpkg would read otherwise, [`PackageError::Archive`] where writing fails.
pub fn deb(payload: &Payload, control: &Control) -> Result<Vec<u8>, PackageError> {
    check(control)?;
    let mut paths = std::collections::BTreeSet::new();
    for file in &payload.files {
        if !file.path.split('/').all(plain_name) || !paths.insert(&file.path) {
            return Err(PackageError::Field {
                field: "a file's path",
                value: file.path.clone(),
                wanted: "names without spaces from the root of the board's file system, each file once",
            });
        }
    }
    let doc = format!("usr/share/doc/{}", control.name);
    let copyright = copyright();
    let changelog = format!(
        "{} ({}) unstable; urgency=medium\n\n  * Packaged by thimble.\n\n -- {}  Sat, 01 Jan 2000 00:00:00 +0000\n",
        control.name, control.version, control.maintainer
    );
    let overrides = overrides(payload, control.name);
    let mut files: Vec<Entry> = payload
        .files
        .iter()
        .map(|f| (f.path.as_str(), f.mode, f.bytes.as_slice()))
        .collect();
    let (copyright_at, changelog_at) = (format!("{doc}/copyright"), format!("{doc}/changelog.gz"));
    let overrides_at = format!("usr/share/lintian/overrides/{}", control.name);
    let changelog = gzip(changelog.as_bytes(), Compression::best())?;
    files.push((&copyright_at, 0o644, copyright.as_bytes()));
    files.push((&changelog_at, 0o644, &changelog));
    files.push((&overrides_at, 0o644, overrides.as_bytes()));
    files.sort();
    let control_tar = control_tar(control, &files)?;
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&control_tar, Compression::best())?),
        ("data.tar.gz", gzip(&tar(&files)?, Compression::new(6))?),
    ] {
        // ar: name 16, time 12, uid 6, gid 6, mode 8, size 10, end.
        writeln!(
            out,
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`",
            0,
            0,
            0,
            "100644",
            bytes.len()
        )?;
        out.extend_from_slice(&bytes);
        if bytes.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    Ok(out)
}

/// Debian's copyright file.
fn copyright() -> String {
    let mit = include_str!("../../../LICENSE-MIT");
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

/// The tar of a package's fields, checksums and scripts.
fn control_tar(control: &Control, files: &[Entry]) -> std::io::Result<Vec<u8>> {
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
    tar(&[
        ("control", 0o644, fields.as_bytes()),
        ("md5sums", 0o644, sums.as_bytes()),
        ("postinst", 0o755, postinst.as_bytes()),
        ("postrm", 0o755, postrm.as_bytes()),
        ("prerm", 0o755, prerm.as_bytes()),
    ])
}

/// What lintian is right to ask about and the answer to which is yes.
fn overrides(payload: &Payload, name: &str) -> String {
    let program = format!("{LIBRARY}/thimble-device");
    let mut text = String::new();
    if payload.files.iter().any(|f| f.path == program) {
        text += "# One file for every system: no glibc to match.\n";
        text += &format!("{name}: statically-linked-binary [{program}]\n");
    }
    text
}

fn script(work: &str, when: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\nif [ \"$1\" = {when} ] && command -v {} >/dev/null; then\n\t{work}\nfi\n",
        work.split(' ').next().unwrap_or_default()
    )
}

fn check(control: &Control) -> Result<(), PackageError> {
    let field = |field, value: &str, wanted| PackageError::Field {
        field,
        value: value.into(),
        wanted,
    };
    let name_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let (name, version) = (control.name, control.version);
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
    let mail = control
        .maintainer
        .split_once(" <")
        .is_some_and(|(_, m)| m.ends_with('>') && m.contains('@'));
    if !one_line(control.maintainer) || !mail {
        return Err(field(
            "--maintainer",
            control.maintainer,
            "write it like 'Jane Doe <jane@example.org>'",
        ));
    }
    if !one_line(control.description) || control.description.len() > 79 {
        return Err(field(
            "--description",
            control.description,
            "one line of at most 79 bytes",
        ));
    }
    Ok(())
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

/// 2000-01-01: the same at every build, and not so old that Debian takes it for a mistake.
const STAMP: u64 = 946_684_800;

fn gzip(bytes: &[u8], level: Compression) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A ustar archive of `files` and the directories above them, each once, owned by root.
fn tar(files: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut made = std::collections::BTreeSet::new();
    header(&mut out, "./", 0o755, 0, b'5')?;
    for (path, mode, bytes) in files {
        let above = path.match_indices('/').map(|(at, _)| &path[..=at]);
        for dir in above {
            if made.insert(dir.to_string()) {
                header(&mut out, &format!("./{dir}"), 0o755, 0, b'5')?;
            }
        }
        header(&mut out, &format!("./{path}"), *mode, bytes.len() as u64, b'0')?;
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Ok(out)
}

fn header(out: &mut Vec<u8>, name: &str, mode: u32, size: u64, kind: u8) -> std::io::Result<()> {
    if name.len() > 100 || size >= 1 << 33 {
        return Err(std::io::Error::other(format!("{name} does not fit into a tar header")));
    }
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{STAMP:011o}"));
    put(148, "        ");
    put(257, "ustar\0");
    put(263, "00");
    put(265, "root");
    put(297, "root");
    block[156] = kind;
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control<'static> {
        Control {
            name: "thimble-x",
            version: "1.0",
            maintainer: "Jane Doe <jane@example.org>",
            description: "a model",
        }
    }

    #[test]
    fn files_lie_at_plain_paths_and_each_once() {
        let with = |paths: &[&str]| {
            let files = paths.iter().map(|path| PackagedFile {
                path: path.to_string(),
                mode: 0o644,
                bytes: vec![],
            });
            deb(&Payload { files: files.collect() }, &control()).map_err(|e| e.to_string())
        };
        assert!(with(&["usr/lib/a", "usr/lib/b.onnx"]).is_ok());
        for paths in [
            &["../etc/x"][..],
            &["usr/../x"],
            &["/x"],
            &["a b"],
            &["a\nb"],
            &["a\0"],
            &[""],
            &["a", "a"],
        ] {
            let error = with(paths).unwrap_err();
            assert!(error.contains("a file's path"), "{paths:?}: {error}");
        }
    }

    #[test]
    fn what_debian_would_refuse_is_refused_here() {
        let payload = Payload { files: vec![] };
        assert!(deb(&payload, &control()).is_ok());
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
            let error = deb(&payload, &control).unwrap_err().to_string();
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

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let payload = || Payload {
            files: vec![PackagedFile {
                path: "usr/lib/thimble/a".into(),
                mode: 0o644,
                bytes: vec![1; 700],
            }],
        };
        assert_eq!(
            deb(&payload(), &control()).unwrap(),
            deb(&payload(), &control()).unwrap()
        );
    }

    #[test]
    fn names_that_mean_something_to_a_shell_are_none() {
        for bad in [
            "", "-rf.onnx", "+x", "a b", "a'b", "a\"b", "a\nb", "a%b", "a$b", "größe", "a/b",
        ] {
            assert!(!plain_name(bad), "{bad:?}");
        }
        assert!(plain_name("base-int8_v1.0+x.onnx") && plain_name(".hidden"));
    }

    #[test]
    fn the_unit_is_installed_last_and_its_link_leads_to_it() {
        let file = |path: &str| PackagedFile {
            path: path.into(),
            mode: 0o644,
            bytes: vec![],
        };
        let files = vec![
            file("usr/lib/systemd/system/thimble-check.service"),
            file("usr/lib/thimble/m.onnx"),
        ];
        let payload = Payload { files };
        assert_eq!(
            payload.in_order()[1].path,
            "usr/lib/systemd/system/thimble-check.service"
        );
        assert_eq!(payload.enabling().1, format!("/{}", payload.in_order()[1].path));
    }

    #[test]
    fn a_packaged_unit_wants_the_model_it_came_with() {
        let (model, tokenizer) = (Path::new("x/m.onnx"), Some(b"t".to_vec()));
        let payload = payload(model, b"abc".to_vec(), tokenizer, b"x".to_vec(), Some(1 << 25)).unwrap();
        assert!(
            payload
                .files
                .iter()
                .any(|f| f.path == "usr/lib/thimble/m.tokenizer.json" && f.bytes == b"t")
        );
        let unit = payload.files.iter().find(|f| f.path.ends_with(UNIT)).unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let wanted = format!("--json --sha256 {digest} --max-ram 33554432 >");
        assert!(String::from_utf8_lossy(&unit.bytes).contains(&wanted));
    }

    #[test]
    fn the_unit_holds_the_limit_twice() {
        let bench = ["--seq", "8", "--max-ram", "33554432"].map(String::from);
        let unit = unit("/usr/lib/thimble", "m.onnx", &bench, Some(1 << 25), None);
        assert!(unit.contains("MemoryMax=33554432\n") && unit.contains("--json --seq 8 --max-ram 33554432 >"));
        assert!(!super::unit("/x", "m.onnx", &[], None, Some("pi")).contains("MemoryMax"));
    }
}
