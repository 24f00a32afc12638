//! A model named on the command line: a checkpoint directory, a file of thimble's, or another tool's ONNX. Any gives a [`Model`] to
//! export, or bytes for the engine; a tokenizer that stands beside it is found here.

use crate::import::{self, Imported};
use crate::source::{self, Source};
use crate::text::{printable, say};
use crate::tokenise;
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thimble_device::buffer::Buffer;
use thimble_device::image::Image;
use thimble_device::map::{ModelFile, ModelMap};
use thimble_shared::artifact::{self, Artifact, ArtifactError, Provenance, Writer};
use thimble_shared::audit;
use thimble_shared::files;
use thimble_shared::graph::{Config, Head, Model};
use thimble_shared::lower::LowerOptions;
use thimble_shared::number::Values;
pub use thimble_text::tokenizer_beside;

/// How a model is read where its folder or file leaves it open.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// The head to make, whatever class config.json names.
    pub head: Option<Head>,
}

pub enum Subject {
    Checkpoint(Checkpoint),
    File(File),
}

/// A model that must be written before it can be mapped: a checkpoint, its weights in f32; another tool's ONNX; or a file of
/// thimble's that another tool has saved again, its weights in the file's formats.
pub struct Checkpoint {
    pub model: Model,
    options: LowerOptions,
    sha256: Option<String>,
    tokenizer: Option<PathBuf>,
    /// Every file it was read from.
    files: Vec<PathBuf>,
}

impl From<Source> for Checkpoint {
    fn from(source: Source) -> Self {
        let weights = source
            .weights
            .into_iter()
            .map(|(name, w)| (name, Values::F32(w.data)))
            .collect();
        let model = Model {
            config: source.config,
            weights,
        };
        let mut files = source.files;
        files.push(source.config_file);
        Checkpoint {
            model,
            options: LowerOptions::default(),
            sha256: Some(source.sha256),
            tokenizer: source.tokenizer,
            files,
        }
    }
}

impl From<Imported> for Checkpoint {
    fn from(imported: Imported) -> Self {
        Checkpoint {
            model: imported.model,
            options: LowerOptions {
                seq: imported.seq,
                ..LowerOptions::default()
            },
            sha256: Some(imported.sha256),
            tokenizer: imported.tokenizer,
            files: imported.files,
        }
    }
}

/// A file of thimble's.
pub struct File {
    pub artifact: Artifact,
    pub map: ModelMap,
    path: PathBuf,
    tokenizer: Option<PathBuf>,
}

impl File {
    /// What a board is sent: a file of thimble's, since it runs nothing else.
    pub fn for_board(path: &Path) -> Result<File> {
        match Subject::open(path)? {
            Subject::File(file) => Ok(file),
            Subject::Checkpoint(_) => bail!(
                "{}: a board runs files of thimble's; make one with thimble export or shrink",
                path.display()
            ),
        }
    }

    /// The bytes of the tokenizer it was written with, where that lies beside it.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.tokenizer else {
            return Ok(None);
        };
        let bytes = files::read(path).with_context(|| path.display().to_string())?;
        self.is_its_tokenizer(&tokenise::sha256(&bytes))?;
        Ok(Some(bytes))
    }

    /// Where that is.
    pub fn tokenizer_path(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// An error where the file there is not the one that was found when this was opened.
    pub fn is_its_tokenizer(&self, sha256: &str) -> Result<()> {
        if self.artifact.provenance.tokenizer_sha256.as_deref() != Some(sha256) {
            let path = tokenizer_beside(&self.path);
            bail!("{}: it was replaced while it was read; run this again", path.display());
        }
        Ok(())
    }

    /// Its bytes: those that were looked at, whatever bears its name by now.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = self.map.bytes().to_vec();
        self.map.file().unchanged()?;
        Ok(bytes)
    }
}

/// The bytes of any file; a directory, an empty file or a device is one clear error.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    // The map is only a way to the bytes here: an inspected file may be rewritten while we look at it.
    Ok(ModelMap::open(path, false)?.bytes().to_vec())
}

/// The tokenizer beside a file of thimble's, if it is the one the file was written with.
fn own_tokenizer(model: &Path, provenance: &Provenance) -> Result<Option<PathBuf>> {
    let beside = tokenizer_beside(model);
    if !beside.exists() {
        return Ok(None);
    }
    let bytes = files::read(&beside).with_context(|| beside.display().to_string())?;
    if provenance.tokenizer_sha256.as_ref() == Some(&tokenise::sha256(&bytes)) {
        return Ok(Some(beside));
    }
    say(&format!(
        "note: {} is not the tokenizer {} was written with and is left alone; --tokenizer takes any",
        beside.display(),
        model.display()
    ));
    Ok(None)
}

impl Subject {
    /// Opens what `path` names, as it stands. Notes go to stderr.
    pub fn open(path: &Path) -> Result<Subject> {
        Subject::open_with(path, &ReadOptions::default())
    }

    /// Opens what `path` names, read as `options` say. Notes go to stderr.
    pub fn open_with(path: &Path, options: &ReadOptions) -> Result<Subject> {
        let is_weights = path.extension().is_some_and(|e| {
            ["safetensors", "bin", "pt", "pth", "json"]
                .iter()
                .any(|known| e == *known)
        });
        if path.is_dir() || is_weights {
            let source = source::read_with(path, options)?;
            source
                .notes
                .iter()
                .for_each(|note| say(&format!("note: {}", printable(note))));
            return Ok(Subject::Checkpoint(source.into()));
        }
        let map = ModelMap::open(path, false)?;
        let opened = artifact::open(map.bytes());
        if let Err(ArtifactError::NotThimble) = opened {
            let imported = import::open(path)?;
            imported
                .notes
                .iter()
                .for_each(|note| say(&format!("note: {}", printable(note))));
            return Ok(Subject::Checkpoint(imported.into()));
        }
        let resaved = matches!(opened, Err(ArtifactError::Misaligned { .. } | ArtifactError::NoTail));
        let artifact = if resaved {
            artifact::open_resaved(map.bytes())
        } else {
            opened
        }
        .with_context(|| path.display().to_string())?;
        let named = || path.display().to_string();
        let differences = audit::differences_of(map.bytes(), &|part| map.release(part)).with_context(named)?;
        if !differences.is_empty() {
            bail!(
                "{}: nodes and metadata contradict each other: {}",
                path.display(),
                differences.join("; ")
            );
        }
        let tokenizer = own_tokenizer(path, &artifact.provenance)?;
        if resaved {
            say(&format!(
                "note: {} was saved again by another tool; its numbers are read, its layout is not",
                path.display()
            ));
            return Ok(Subject::Checkpoint(Checkpoint {
                model: artifact
                    .model_of(map.bytes(), &|part| map.release(part))
                    .with_context(named)?,
                options: artifact.options,
                sha256: artifact.provenance.source_sha256,
                tokenizer,
                files: vec![path.to_path_buf()],
            }));
        }
        Ok(Subject::File(File {
            artifact,
            map,
            path: path.to_path_buf(),
            tokenizer,
        }))
    }

    pub fn config(&self) -> &Config {
        match self {
            Subject::Checkpoint(source) => &source.model.config,
            Subject::File(file) => &file.artifact.graph.config,
        }
    }

    pub fn tokenizer(&self) -> Option<&Path> {
        match self {
            Subject::Checkpoint(source) => source.tokenizer.as_deref(),
            Subject::File(file) => file.tokenizer.as_deref(),
        }
    }

    /// The opset and sequence length a file already has; the defaults for a checkpoint.
    pub fn options(&self) -> LowerOptions {
        match self {
            Subject::Checkpoint(source) => source.options,
            Subject::File(file) => file.artifact.options,
        }
    }

    /// Every file the model and its tokenizer were read from: what an output must not replace.
    pub fn files(&self) -> Vec<&Path> {
        let read: Vec<&Path> = match self {
            Subject::Checkpoint(source) => source.files.iter().map(PathBuf::as_path).collect(),
            Subject::File(file) => vec![&file.path],
        };
        read.into_iter().chain(self.tokenizer()).collect()
    }

    /// SHA-256 of the weights the model was made from.
    pub fn source_sha256(&self) -> Option<String> {
        match self {
            Subject::Checkpoint(source) => source.sha256.clone(),
            Subject::File(file) => file.artifact.provenance.source_sha256.clone(),
        }
    }

    /// The model as it is: a checkpoint in f32, a file in its own formats.
    pub fn model(&self) -> Result<Cow<'_, Model>> {
        match self {
            Subject::Checkpoint(source) => Ok(Cow::Borrowed(&source.model)),
            Subject::File(file) => {
                let read = |part: &[u8]| file.map.release(part);
                let model = file.artifact.model_of(file.map.bytes(), &read)?;
                // Numbers of which some are old and some new are no model's.
                file.map.file().unchanged()?;
                Ok(Cow::Owned(model))
            }
        }
    }

    /// The file the engine maps, to be asked whether it is still what it was when the engine is done.
    pub fn mapped(&self) -> Option<Arc<ModelFile>> {
        match self {
            Subject::File(file) => Some(file.map.file().clone()),
            Subject::Checkpoint(_) => None,
        }
    }

    /// What the engine runs.
    pub fn image(self) -> Result<Arc<Image>> {
        match self {
            Subject::File(file) => Ok(Image::new(file.map)),
            Subject::Checkpoint(source) => image_of(&source.model),
        }
    }
}

/// A model in memory, as the engine would map it from a file.
pub fn image_of(model: &Model) -> Result<Arc<Image>> {
    let writer = Writer::new(model, LowerOptions::default(), &Provenance::default())?;
    let len = writer.size();
    let mut buffer = Buffer::with_room(len)?;
    writer.write_to(&mut buffer.take::<u8>(len))?;
    Ok(Image::of(buffer, len))
}
