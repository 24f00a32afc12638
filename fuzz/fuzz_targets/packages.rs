//! What goes into the archives that are written here, a newc cpio and a Debian package: whatever the names and contents, it is
//! refused or comes out of a reader as it went in.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use flate2::read::GzDecoder;
use libfuzzer_sys::fuzz_target;
use std::io::Read;
use thimble::boards::cpio::Archive;
use thimble::boards::package::unit::{self, Scope, Service};
use thimble::boards::package::{Control, PackagedFile, Payload, deb, plain_name};
use thimble_fuzz::plain;
use thimble_shared::board::architecture::Architecture;

#[derive(Debug)]
enum Entry {
    Directory(String, u16),
    File(String, u16, Vec<u8>),
    Symlink(String, String),
    Device(String, u16, u32, u32),
}

#[derive(Debug)]
struct Asked {
    cpio: Vec<Entry>,
    files: Vec<(String, u16, Vec<u8>)>,
    name: String,
    version: String,
    maintainer: String,
    description: String,
    max_ram: Option<u64>,
}

// By hand: the derive macro asks for a feature of syn with which serde's macros, and so tract, are compiled a second time.
impl<'a> Arbitrary<'a> for Entry {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=3)? {
            0 => Entry::Directory(u.arbitrary()?, u.arbitrary()?),
            1 => Entry::File(u.arbitrary()?, u.arbitrary()?, u.arbitrary()?),
            2 => Entry::Symlink(u.arbitrary()?, u.arbitrary()?),
            _ => Entry::Device(u.arbitrary()?, u.arbitrary()?, u.arbitrary()?, u.arbitrary()?),
        })
    }
}

impl<'a> Arbitrary<'a> for Asked {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Asked {
            cpio: u.arbitrary()?,
            files: u.arbitrary()?,
            name: u.arbitrary()?,
            version: u.arbitrary()?,
            maintainer: u.arbitrary()?,
            description: u.arbitrary()?,
            max_ram: u.arbitrary()?,
        })
    }
}

fuzz_target!(|asked: Asked| {
    cpio(&asked.cpio);
    // Alone, few inputs are what Debian takes in every field: so each field is also tried beside sound ones.
    let sound = Control {
        name: "thimble-x",
        version: "1.0",
        maintainer: "Jane Doe <jane@example.org>",
        description: "a model",
    };
    let Asked {
        name,
        version,
        maintainer,
        description,
        ..
    } = &asked;
    let mail = format!("{maintainer} <{maintainer}@{maintainer}>");
    for control in [
        Control { name, ..sound },
        Control { version, ..sound },
        Control { maintainer, ..sound },
        Control {
            maintainer: &mail,
            ..sound
        },
        Control { description, ..sound },
    ] {
        debian(&asked.files, &control);
    }
    if plain_name(&asked.name) {
        let (program, model) = ("/usr/bin/thimble-device", format!("/usr/share/thimble/{}", asked.name));
        let service = Service {
            program,
            model: &model,
            sha256: "ab",
            memory: asked.max_ram,
            scope: Scope::System,
        };
        for text in [
            unit::check(program, &model, &[], asked.max_ram, None),
            unit::service(&service),
        ] {
            // A line more would be a directive nobody wrote.
            assert_eq!(text.lines().filter(|l| l.starts_with("ExecStart=")).count(), 1);
            assert_eq!(text.lines().filter(|l| l.starts_with('[')).count(), 3);
        }
    }
});

fn cpio(entries: &[Entry]) {
    let mut archive = Archive::default();
    let mut wanted: Vec<(&str, u32, &[u8])> = Vec::new();
    for entry in entries {
        let (result, name, mode, bytes) = match entry {
            Entry::Directory(name, mode) => {
                let mode = u32::from(*mode) & 0o7777;
                (archive.directory(name, mode), name, 0o040_000 | mode, &[][..])
            }
            Entry::File(name, mode, bytes) => {
                let mode = u32::from(*mode) & 0o7777;
                (archive.file(name, mode, bytes), name, 0o100_000 | mode, &bytes[..])
            }
            Entry::Symlink(name, to) => (archive.symlink(name, to), name, 0o120_777, to.as_bytes()),
            Entry::Device(name, mode, major, minor) => {
                let mode = u32::from(*mode) & 0o7777;
                (
                    archive.character_device(name, mode, *major, *minor),
                    name,
                    0o020_000 | mode,
                    &[][..],
                )
            }
        };
        match result {
            Ok(()) => wanted.push((name, mode, bytes)),
            Err(e) => plain(&e.to_string()),
        }
    }
    let bytes = archive.finish();
    assert_eq!(bytes.len() % 512, 0);
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    loop {
        let field = |n: usize| {
            let text = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).expect("hexadecimal digits");
            u32::from_str_radix(text, 16).expect("hexadecimal digits") as usize
        };
        assert_eq!(&rest[..6], b"070701");
        let (mode, size, name_size) = (field(1) as u32, field(6), field(11));
        let name = std::str::from_utf8(&rest[110..110 + name_size - 1]).expect("a name");
        assert_eq!(rest[110 + name_size - 1], 0);
        assert!(!name.contains('\0'));
        let start = (110 + name_size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            break;
        }
        found.push((name, mode, &rest[start..start + size]));
        rest = &rest[(start + size).next_multiple_of(4)..];
    }
    assert_eq!(found, wanted);
}

fn debian(files: &[(String, u16, Vec<u8>)], control: &Control) {
    let payload = Payload {
        files: files
            .iter()
            .map(|(path, mode, bytes)| PackagedFile {
                path: path.clone(),
                mode: u32::from(*mode) & 0o777,
                bytes: bytes.clone(),
            })
            .collect(),
        architecture: Architecture::ALL[files.len() % 2],
    };
    let bytes = match deb(&payload, control) {
        Ok(bytes) => bytes,
        Err(e) => return plain(&e.to_string()),
    };
    let mut rest = bytes.strip_prefix(b"!<arch>\n").expect("an ar archive");
    let mut members = Vec::new();
    while !rest.is_empty() {
        let text = std::str::from_utf8(&rest[..60]).expect("a header of text");
        assert!(text.ends_with("`\n"));
        let size: usize = text[48..58].trim().parse().expect("a size");
        members.push((text[..16].trim(), &rest[60..60 + size]));
        rest = &rest[(60 + size).next_multiple_of(2).min(rest.len())..];
    }
    let names: Vec<&str> = members.iter().map(|m| m.0).collect();
    assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
    let data = tar(members[2].1);
    for (path, mode, bytes) in files {
        let path = format!("./{path}");
        let found = data.iter().filter(|f| f.0 == path);
        assert!(
            found
                .into_iter()
                .any(|f| f.1 == u32::from(*mode) & 0o777 && f.2 == *bytes),
            "{path:?} is lost"
        );
    }
    let control_files = tar(members[1].1);
    let fields = control_files
        .iter()
        .find(|f| f.0 == "./control")
        .expect("a control file");
    let fields = std::str::from_utf8(&fields.2).expect("text");
    // One stanza, and no field but those that belong there.
    assert!(!fields.trim_end().lines().any(|l| l.trim().is_empty()), "{fields}");
    assert_eq!(fields.lines().filter(|l| !l.starts_with(' ')).count(), 11, "{fields}");
}

/// Name, mode and contents of each regular file.
fn tar(gzipped: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("gzip");
    let mut files = Vec::new();
    let mut at = 0;
    while bytes[at..at + 512].iter().any(|&b| b != 0) {
        let header = &bytes[at..at + 512];
        let text = |range: std::ops::Range<usize>| {
            let field = &header[range];
            let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
            String::from_utf8(field[..end].to_vec()).expect("text")
        };
        let number = |range| usize::from_str_radix(text(range).trim(), 8).expect("octal digits");
        let sum: usize = header
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { b.into() })
            .sum();
        assert_eq!(sum, number(148..156), "a header's checksum");
        let (name, prefix, size) = (text(0..100), text(345..500), number(124..136));
        let name = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        if header[156] == b'0' {
            files.push((name, number(100..108) as u32, bytes[at + 512..at + 512 + size].to_vec()));
        }
        at += 512 + size.next_multiple_of(512);
    }
    files
}
