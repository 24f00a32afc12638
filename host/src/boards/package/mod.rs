//! What a board gets and where it lies: device program, model, tokenizer, systemd units. The same list of files goes into a
//! mounted root file system, into a card image or, with licenses, into a Debian package.

mod control;
mod deb;
pub mod unit;

pub use crate::boards::device_binary::PROGRAM;
pub use control::Control;
pub use deb::deb;
use std::path::Path;
use thimble_device::image::digest::sha256;
use thimble_shared::board::architecture::Architecture;
use thimble_text::tokenizer_beside;
use unit::{Scope, Service};

/// Where programs lie on the board, without the leading slash.
pub const PROGRAMS: &str = "usr/bin";
/// Where the model and its tokenizer lie.
pub const MODELS: &str = "usr/share/thimble";
/// Where packages put units.
pub const UNITS: &str = "usr/lib/systemd/system";
/// The unit that measures the model once at boot.
pub const CHECK: &str = "thimble-check.service";
/// The unit that listens.
pub const SOCKET: &str = "thimble.socket";
/// The unit that answers.
pub const SERVICE: &str = "thimble.service";

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

/// A file in a tar: its path, its mode, its bytes.
type Entry<'a> = (&'a str, u32, &'a [u8]);

/// What a board gets.
pub struct Payload {
    /// Sorted by path.
    pub files: Vec<PackagedFile>,
    /// What the device program is for.
    pub architecture: Architecture,
}

/// What the units hold the program to, and which there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitOptions {
    /// Most bytes of memory: `MemoryMax=` of all units, and what the measuring one judges.
    pub max_ram: Option<u64>,
    /// RAM of the board, where it is known: without `max_ram` the server may have half of it.
    pub board_ram: Option<u64>,
    /// Install the unit that measures at boot as well.
    pub measure: bool,
    /// Put the model into a folder that is named by its SHA-256: two versions of a package lie side by side while one takes the
    /// other's place, and a power cut meanwhile leaves a unit whose model is there.
    pub by_digest: bool,
}

impl UnitOptions {
    /// `MemoryMax=` of the server.
    pub fn memory(&self) -> Option<u64> {
        self.max_ram.or(self.board_ram.map(|ram| ram / 2))
    }
}

/// Where a system's owner puts units, which go before those of packages.
pub const OWN_UNITS: &str = "etc/systemd/system";
/// Where a unit's name leads there when it was masked: systemd will not start it, enabled or not.
pub const MASK: &str = "/dev/null";
/// Each unit, and the target that starts it at boot.
const WANTED: [(&str, &str); 3] = [
    (SOCKET, "sockets.target"),
    (SERVICE, "multi-user.target"),
    (CHECK, "multi-user.target"),
];

/// A link that enables a unit, as systemctl makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enabling {
    /// Name of the unit.
    pub unit: &'static str,
    /// Path of the link, without the leading slash.
    pub link: String,
    /// Where it leads.
    pub to: String,
}

impl Payload {
    /// The files in the order they are installed: units come last, so that a boot never finds one whose program is missing.
    pub fn in_order(&self) -> Vec<&PackagedFile> {
        let (units, others): (Vec<&PackagedFile>, Vec<&PackagedFile>) =
            self.files.iter().partition(|f| f.path.starts_with(UNITS));
        others.into_iter().chain(units).collect()
    }

    /// The units there are, the socket first.
    pub fn units(&self) -> Vec<&'static str> {
        let there = |unit: &str| self.files.iter().any(|f| f.path == format!("{UNITS}/{unit}"));
        WANTED
            .iter()
            .map(|(unit, _)| *unit)
            .filter(|unit| there(unit))
            .collect()
    }

    /// The links that enable the units.
    pub fn enabling(&self) -> Vec<Enabling> {
        let units = self.units();
        let wanted = WANTED.iter().filter(|(unit, _)| units.contains(unit));
        let link = |(unit, target): &(&'static str, &str)| Enabling {
            unit,
            link: format!("{OWN_UNITS}/{target}.wants/{unit}"),
            to: format!("/{UNITS}/{unit}"),
        };
        wanted.map(link).collect()
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
    (program, architecture): (Vec<u8>, Architecture),
    units: &UnitOptions,
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
    let digest = sha256(&bytes);
    let folder = match units.by_digest {
        true => format!("{MODELS}/{}", &digest[..16]),
        false => MODELS.to_string(),
    };
    let (program_at, model_at) = (format!("{PROGRAMS}/{PROGRAM}"), format!("{folder}/{name}"));
    let mut files = vec![at(&program_at, 0o755, program), at(&model_at, 0o644, bytes)];
    if let Some(bytes) = tokenizer {
        let name = tokenizer_beside(Path::new(&name)).display().to_string();
        files.push(at(&format!("{folder}/{name}"), 0o644, bytes));
    }
    let (program_at, model_at) = (format!("/{program_at}"), format!("/{model_at}"));
    let mut unit = |name: &str, text: String| files.push(at(&format!("{UNITS}/{name}"), 0o644, text.into_bytes()));
    unit(SOCKET, unit::socket(Scope::System));
    let service = Service {
        program: &program_at,
        model: &model_at,
        sha256: &digest,
        memory: units.memory(),
        scope: Scope::System,
    };
    unit(SERVICE, unit::service(&service));
    if units.measure {
        let mut bench = vec!["--sha256".to_string(), digest];
        let limit = units.max_ram.map(|most| ["--max-ram".to_string(), most.to_string()]);
        bench.extend(limit.into_iter().flatten());
        unit(CHECK, unit::check(&program_at, &model_at, &bench, units.max_ram, None));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Payload { files, architecture })
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

    fn made(units: UnitOptions) -> Payload {
        let (model, tokenizer) = (Path::new("x/m.onnx"), Some(b"t".to_vec()));
        payload(
            model,
            b"abc".to_vec(),
            tokenizer,
            (b"x".to_vec(), Architecture::Armv7),
            &units,
        )
        .unwrap()
    }

    #[test]
    fn units_are_installed_last_and_their_links_lead_to_them() {
        let usual = made(UnitOptions::default());
        assert_eq!(usual.units(), [SOCKET, SERVICE]);
        let order: Vec<bool> = usual.in_order().iter().map(|f| f.path.starts_with(UNITS)).collect();
        assert_eq!(order, [false, false, false, true, true]);
        for one in usual.enabling() {
            assert!(usual.files.iter().any(|f| format!("/{}", f.path) == one.to));
        }
        assert_eq!(
            usual.enabling()[0].link,
            "etc/systemd/system/sockets.target.wants/thimble.socket"
        );
        let measuring = UnitOptions {
            measure: true,
            ..UnitOptions::default()
        };
        assert_eq!(made(measuring).units(), [SOCKET, SERVICE, CHECK]);
    }

    #[test]
    fn a_packaged_unit_wants_the_model_it_came_with() {
        let payload = made(UnitOptions {
            max_ram: Some(1 << 25),
            board_ram: Some(1 << 30),
            measure: true,
            by_digest: false,
        });
        let file = |path: &str| payload.files.iter().find(|f| f.path == path).unwrap();
        assert_eq!(file("usr/share/thimble/m.tokenizer.json").bytes, b"t");
        assert_eq!(file("usr/bin/thimble-device").mode, 0o755);
        let text = |unit: &str| String::from_utf8_lossy(&file(&format!("{UNITS}/{unit}")).bytes).into_owned();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(text(CHECK).contains(&format!("--json --sha256 {digest} --max-ram 33554432 >")));
        assert!(text(SERVICE).contains(&format!("serve /usr/share/thimble/m.onnx --sha256 {digest}\n")));
        assert!(text(SERVICE).contains("MemoryMax=33554432\n"));
    }

    #[test]
    fn a_server_may_have_half_of_a_known_board() {
        let options = |max_ram, board_ram| UnitOptions {
            max_ram,
            board_ram,
            ..UnitOptions::default()
        };
        assert_eq!(options(None, None).memory(), None);
        assert_eq!(options(None, Some(512)).memory(), Some(256));
        assert_eq!(options(Some(100), Some(512)).memory(), Some(100));
    }
}
