//! What a board gets and where it lies: device program, model, tokenizer, a systemd unit. The same list of files goes into a
//! mounted root file system, into a card image or, with licenses, into an arm64 Debian package.

mod control;
mod deb;
mod unit;

pub use crate::boards::device_binary::PROGRAM;
pub use control::Control;
pub use deb::deb;
use std::path::Path;
use thimble_device::image::digest::sha256;
use thimble_text::tokenizer_beside;
pub use unit::unit;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
