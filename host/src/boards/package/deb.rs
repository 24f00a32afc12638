//! Writes a payload as a Debian package: an `ar` archive of two gzip tars with one fixed date, one owner and entries in a
//! fixed order, so the same input gives the same bytes. The `ar` around them is written by hand: it has three members, each with
//! a line of text before it.

use super::control::{self, Control};
use super::{Entry, PackageError, Payload, plain_name};
use flate2::{Compression, GzBuilder};
use std::io::Write;
use tar::{EntryType, Header};

/// The bytes of a package for the architecture of the payload's program.
///
/// # Errors
/// [`PackageError::Field`] for a path or a field that dpkg would read otherwise, [`PackageError::Archive`] where writing fails.
pub fn deb(payload: &Payload, control: &Control) -> Result<Vec<u8>, PackageError> {
    control.check()?;
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
    let copyright = control::copyright();
    let changelog = gzip(control::changelog(control).as_bytes(), Compression::best())?;
    let overrides = control::overrides(payload, control.name);
    let mut files: Vec<Entry> = payload
        .files
        .iter()
        .map(|f| (f.path.as_str(), f.mode, f.bytes.as_slice()))
        .collect();
    let (copyright_at, changelog_at) = (format!("{doc}/copyright"), format!("{doc}/changelog.gz"));
    let overrides_at = format!("usr/share/lintian/overrides/{}", control.name);
    let manual = gzip(control::manual().as_bytes(), Compression::best())?;
    let manual_at = format!("usr/share/man/man1/{}.1.gz", super::PROGRAM);
    files.push((&manual_at, 0o644, &manual));
    files.push((&copyright_at, 0o644, copyright.as_bytes()));
    files.push((&changelog_at, 0o644, &changelog));
    files.push((&overrides_at, 0o644, overrides.as_bytes()));
    // dpkg gives files their names in this order: with the units last, one that a power cut leaves never names what is not there.
    files.sort_by_key(|file| (file.0.starts_with(super::UNITS), file.0));
    let control_files = control::files(control, payload.architecture, &files, &payload.units());
    let control_files: Vec<Entry> = control_files
        .iter()
        .map(|(path, mode, text)| (*path, *mode, text.as_bytes()))
        .collect();
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", &gzip(&tar(&control_files)?, Compression::best())?),
        ("data.tar.gz", &gzip(&tar(&files)?, Compression::new(6))?),
    ])
}

/// An `ar` archive: for each member a line of 60 bytes with name, time, owner, group, mode and size, then its bytes, padded to an
/// even count.
fn ar(members: &[(&str, &[u8])]) -> Result<Vec<u8>, PackageError> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let size = bytes.len();
        if size >= 10usize.pow(10) {
            return Err(
                std::io::Error::other(format!("{name} has {size} bytes, the archive holds 10 digits of them")).into(),
            );
        }
        writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, "100644")?;
        out.extend_from_slice(bytes);
        if size % 2 == 1 {
            out.push(b'\n');
        }
    }
    Ok(out)
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
    let mut out = tar::Builder::new(Vec::new());
    let mut made = std::collections::BTreeSet::new();
    out.append(&header("./", 0o755, 0, EntryType::Directory)?, std::io::empty())?;
    for (path, mode, bytes) in files {
        let above = path.match_indices('/').map(|(at, _)| &path[..=at]);
        for dir in above {
            if made.insert(dir) {
                let header = header(&format!("./{dir}"), 0o755, 0, EntryType::Directory)?;
                out.append(&header, std::io::empty())?;
            }
        }
        let header = header(&format!("./{path}"), *mode, bytes.len() as u64, EntryType::Regular)?;
        out.append(&header, *bytes)?;
    }
    out.into_inner()
}

fn header(name: &str, mode: u32, size: u64, kind: EntryType) -> std::io::Result<Header> {
    let mut header = Header::new_ustar();
    // As they are: the crate's own way to set a path drops the `./` that Debian's tools write.
    let place = header.as_old_mut().name.get_mut(..name.len());
    if size >= 1 << 33 || place.map(|place| place.copy_from_slice(name.as_bytes())).is_none() {
        return Err(std::io::Error::other(format!("{name} does not fit into a tar header")));
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_mtime(STAMP);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::super::PackagedFile;
    use super::super::control::tests::control;
    use super::*;
    use std::io::Read;
    use thimble_shared::board::architecture::Architecture;

    #[test]
    fn files_lie_at_plain_paths_and_each_once() {
        let with = |paths: &[&str]| {
            let files = paths.iter().map(|path| PackagedFile {
                path: path.to_string(),
                mode: 0o644,
                bytes: vec![],
            });
            deb(
                &Payload {
                    architecture: Architecture::Aarch64,
                    files: files.collect(),
                },
                &control(),
            )
            .map_err(|e| e.to_string())
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
    fn the_same_input_gives_the_same_bytes() {
        let payload = || Payload {
            architecture: Architecture::Aarch64,
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
    fn every_entry_is_roots_and_of_one_date_and_directories_come_first() {
        let files: [Entry; 2] = [
            ("usr/lib/thimble/a", 0o755, &[7; 700]),
            ("usr/lib/thimble/b", 0o644, b""),
        ];
        let bytes = tar(&files).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
                (0, 0, STAMP)
            );
            assert_eq!(
                (header.username().unwrap(), header.groupname().unwrap()),
                (Some("root"), Some("root"))
            );
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mode = header.mode().unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((name, mode, content));
        }
        let want: [(&str, u32, &[u8]); 6] = [
            ("./", 0o755, b""),
            ("./usr/", 0o755, b""),
            ("./usr/lib/", 0o755, b""),
            ("./usr/lib/thimble/", 0o755, b""),
            ("./usr/lib/thimble/a", 0o755, &[7; 700]),
            ("./usr/lib/thimble/b", 0o644, b""),
        ];
        assert_eq!(
            found,
            want.map(|(name, mode, content)| (name.to_string(), mode, content.to_vec()))
        );
        assert!(tar(&[(&"x".repeat(99), 0o644, b"")]).is_err());
        assert!(tar(&[(&"x".repeat(98), 0o644, b"")]).is_ok());
    }

    #[test]
    fn members_of_the_archive_begin_at_even_places() {
        let bytes = ar(&[("a", b"odd"), ("b", b"even")]).unwrap();
        let line = |name: &str, size: usize| format!("{name:<16}0           0     0     100644  {size:<10}`\n");
        assert_eq!(
            bytes,
            format!("!<arch>\n{}odd\n{}even", line("a", 3), line("b", 4)).into_bytes()
        );
    }
}
