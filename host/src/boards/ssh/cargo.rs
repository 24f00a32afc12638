//! What goes to boards: files that are held open, and of the device program the one for what a board runs.

use super::{DeployError, Refusal};
use crate::boards::device_binary::locate;
use crate::boards::package;
use crate::fs::atomic::FileError;
use std::sync::Arc;
use thimble_device::image::mmap::ModelFile;
use thimble_shared::board::architecture::{Architecture, System};
use thimble_shared::board::memory::Need;

/// What goes to one board.
pub struct Cargo {
    /// Model, tokenizer and device program.
    pub files: Vec<Item>,
    /// Name in `files` of the model to measure.
    pub model: String,
    /// RAM the bench is predicted to take.
    pub need: Need,
    /// What the program is for.
    pub architecture: Architecture,
    /// The largest page the program can be mapped with.
    pub largest_page: Option<u64>,
}

/// One file to send.
#[derive(Clone)]
pub struct Item {
    /// Held open: every board gets what was looked at, whatever bears its name by then.
    pub file: Arc<ModelFile>,
    /// File name on the board.
    pub name: String,
    /// Of the whole file, lower-case hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
    /// Permission bits in octal, as chmod takes them.
    pub mode: &'static str,
}

/// A file to send, read once for its checksum.
///
/// # Errors
/// Where its name means something to shells or systemd, or it cannot be read.
pub fn item(file: Arc<ModelFile>, name: String, mode: &'static str) -> Result<Item, DeployError> {
    if !package::plain_name(&name) {
        return Err(FileError::new(file.path(), format!("rename it: {}", package::PLAIN_NAME)).into());
    }
    Ok(Item {
        name,
        sha256: file.sha256()?,
        bytes: file.bytes(),
        mode,
        file,
    })
}

/// The same model with a program for each architecture that there is one for; at least one.
pub struct Cargoes {
    /// One for each.
    pub each: Vec<Cargo>,
    /// Whether the user named the program: no other will do.
    pub named: bool,
    /// What the boards are expected to run.
    pub usual: Architecture,
}

impl Cargoes {
    /// Whether a tokenizer goes along.
    pub fn take_texts(&self) -> bool {
        let mut files = self.each.iter().flat_map(|cargo| &cargo.files);
        files.any(|file| file.name.ends_with(".tokenizer.json"))
    }

    /// What goes to a board that runs this: its programs are followed, and a program that was named goes wherever it starts.
    ///
    /// # Errors
    /// [`Refusal::Program`] where the program that was named does not start there, [`DeployError::File`] where there is none.
    pub fn for_system(&self, system: System) -> Result<&Cargo, DeployError> {
        let starts = |cargo: &&Cargo| match self.named {
            true => system.runs(cargo.architecture),
            false => cargo.architecture == system.programs,
        };
        if let Some(cargo) = self.each.iter().find(starts) {
            return Ok(cargo);
        }
        match (self.named, self.each.first()) {
            (true, Some(cargo)) => Err(Refusal::Program {
                programs: system.programs,
                named: cargo.architecture,
            }
            .into()),
            _ => match locate(None, system.programs) {
                Err(missing) => Err(missing.into()),
                Ok(new) => Err(FileError::new(&new.path, "was not there when this began; run it again").into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Architecture::{Aarch64, Armv7};

    fn cargoes(named: bool, each: &[Architecture]) -> Cargoes {
        let cargo = |&architecture: &Architecture| Cargo {
            files: vec![],
            model: "m.onnx".into(),
            need: Need {
                program: 1,
                activations: 0,
                file: 0,
                copy: 0,
                tokenizer: 0,
            },
            architecture,
            largest_page: None,
        };
        Cargoes {
            each: each.iter().map(cargo).collect(),
            named,
            usual: Aarch64,
        }
    }

    #[test]
    fn a_board_gets_the_program_for_what_it_runs() {
        let system = |kernel, programs| System { kernel, programs };
        let of64 = system(Aarch64, Aarch64);
        let mixed = system(Aarch64, Armv7);
        let of32 = system(Armv7, Armv7);
        let cases = [
            (false, &[Aarch64, Armv7][..], [Some(Aarch64), Some(Armv7), Some(Armv7)]),
            (true, &[Aarch64], [Some(Aarch64), Some(Aarch64), None]),
            (true, &[Armv7], [None, Some(Armv7), Some(Armv7)]),
        ];
        for (named, each, want) in cases {
            let cargoes = cargoes(named, each);
            let got = [of64, mixed, of32].map(|system| cargoes.for_system(system).ok().map(|cargo| cargo.architecture));
            assert_eq!(got, want, "{each:?}");
        }
        let refused = cargoes(true, &[Aarch64]).for_system(of32).err().unwrap();
        assert!(matches!(refused, DeployError::Refused(_)));
        let told = refused.to_string();
        assert!(
            told.contains("the board runs armv7 (32-bit ARM)") && told.contains("is for aarch64 (64-bit ARM)"),
            "{told}"
        );
    }
}
