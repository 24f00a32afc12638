//! A model named on the command line: a checkpoint directory, a file of thimble's, or another tool's ONNX. Any gives a [`Model`] to
//! export, or bytes for the engine; a tokenizer that stands beside it is found here.

use super::error::ModelError;
use super::image::image_of;
use super::read_options::ReadOptions;
use crate::models::checkpoint::{self, Source};
use crate::models::file_names;
use crate::models::huggingface_folder;
use crate::models::onnx_import::{self, ImportOptions, Imported};
use crate::models::tokenizer::{self, TokenizerError, TokenizerSource};
use crate::models::tokenizer_json;
use crate::render::text::{printable, remark};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thimble_device::image::Image;
use thimble_device::image::mmap::{ModelFile, ModelMap};
use thimble_shared::artifact::emit::{LowerOptions, Runtime};
use thimble_shared::artifact::verify;
use thimble_shared::artifact::{self, Artifact, ArtifactError, Provenance};
use thimble_shared::dtype::Values;
use thimble_shared::file_kind::FileKind;
use thimble_shared::files;
use thimble_shared::model::{Config, Model};
pub use thimble_text::tokenizer_beside;

/// A model as it was found: one to export, or one that a board can map as it is.
pub enum ModelSource {
    /// Must be exported before it runs.
    Checkpoint(Checkpoint),
    /// Runs as it is.
    File(File),
}

/// A model that must be written before it can be mapped: a checkpoint, its weights in f32; another tool's ONNX; or a file of
/// thimble's that is made for another runtime or that another tool has saved again, its weights in the file's formats.
pub struct Checkpoint {
    /// Configuration and weights, in f32 or in the formats of the file they come from.
    pub model: Model,
    options: LowerOptions,
    sha256: Option<String>,
    tokenizer: Option<TokenizerSource>,
    /// Every file it was read from.
    files: Vec<PathBuf>,
}

impl From<Source> for Checkpoint {
    fn from(source: Source) -> Self {
        let weights = source
            .weights
            .into_iter()
            .map(|(name, w)| (name, Values::f32(w.data)))
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
    /// What the file states: network, formats, provenance and where its tensors are.
    pub artifact: Artifact,
    /// The whole file, mapped read-only.
    pub map: ModelMap,
    path: PathBuf,
    tokenizer: Option<TokenizerSource>,
}

impl File {
    /// What a board is sent: a file of thimble's, since it runs nothing else.
    pub fn for_board(path: &Path) -> Result<File, ModelError> {
        match ModelSource::open(path)? {
            ModelSource::File(file) => Ok(file),
            ModelSource::Checkpoint(source) => Err(match source.options.runtime {
                Runtime::Board => ModelError::NotForBoards {
                    path: path.to_path_buf(),
                },
                other => ModelError::artifact(path, ArtifactError::OtherRuntime(other)),
            }),
        }
    }

    /// The bytes of the tokenizer it was written with, where that lies beside it.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, ModelError> {
        let Some(path) = self.tokenizer_path() else {
            return Ok(None);
        };
        let bytes = files::read(path).map_err(|cause| ModelError::io(path, cause))?;
        self.is_its_tokenizer(&tokenizer_json::sha256(&bytes))?;
        Ok(Some(bytes))
    }

    /// Where that is.
    pub fn tokenizer_path(&self) -> Option<&Path> {
        self.tokenizer.as_ref().map(TokenizerSource::path)
    }

    /// An error where the file there is not the one that was found when this was opened.
    pub fn is_its_tokenizer(&self, sha256: &str) -> Result<(), ModelError> {
        if self.artifact.provenance.tokenizer_sha256.as_deref() != Some(sha256) {
            return Err(ModelError::Replaced {
                path: tokenizer_beside(&self.path),
            });
        }
        Ok(())
    }

    /// Its bytes: those that were looked at, whatever bears its name by now.
    pub fn bytes(&self) -> Result<Vec<u8>, ModelError> {
        let bytes = self.map.bytes().to_vec();
        self.map.file().unchanged()?;
        Ok(bytes)
    }
}

/// The tokenizer beside a file of thimble's, if it is the one the file was written with.
fn own_tokenizer(model: &Path, provenance: &Provenance) -> Result<Option<TokenizerSource>, ModelError> {
    // In a folder as Hugging Face's tools want it, it stands one folder up.
    let up = model
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join(file_names::TOKENIZER));
    let up = up.filter(|_| model.ends_with(huggingface_folder::MODEL));
    let places = [Some(tokenizer_beside(model)), up];
    let Some(beside) = places.into_iter().flatten().find(|path| path.exists()) else {
        return Ok(None);
    };
    let bytes = files::read(&beside).map_err(|cause| ModelError::io(&beside, cause))?;
    if provenance.tokenizer_sha256.as_ref() == Some(&tokenizer_json::sha256(&bytes)) {
        return Ok(Some(TokenizerSource::File(beside)));
    }
    remark(&format!(
        "note: {} is not the tokenizer {} was written with and is ignored; --tokenizer takes any",
        beside.display(),
        model.display()
    ));
    Ok(None)
}

/// Where a folder holds another tool's ONNX, by the names optimum, transformers' exporter and transformers.js give it.
const ONNX: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// The ONNX file that stands for a folder. One under another name may be a variant (quantized, for a decoder): it is named.
pub fn onnx_in(dir: &Path) -> Result<Option<PathBuf>, ModelError> {
    if let Some(found) = ONNX.iter().map(|name| dir.join(name)).find(|p| p.is_file()) {
        return Ok(Some(found));
    }
    if checkpoint::holds_weights(dir) {
        return Ok(None);
    }
    let others = [dir.to_path_buf(), dir.join("onnx")].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
    });
    match others.min() {
        Some(other) => Err(ModelError::OtherOnnx {
            dir: dir.to_path_buf(),
            usual: ONNX.join(" or "),
            found: printable(&other.display().to_string()),
        }),
        None => Ok(None),
    }
}

/// ALBERT out of another tool's ONNX file.
fn import_onnx(path: &Path, options: &ReadOptions) -> Result<ModelSource, ModelError> {
    let imported = onnx_import::open_with(
        path,
        &ImportOptions {
            outputs: options.output_values.clone(),
            dequantize: options.dequantize,
            head: options.head,
        },
    )?;
    imported
        .notes
        .iter()
        .for_each(|note| remark(&format!("note: {}", printable(note))));
    Ok(ModelSource::Checkpoint(imported.into()))
}

impl ModelSource {
    /// Opens what `path` names, as it stands. Notes go to stderr.
    pub fn open(path: &Path) -> Result<ModelSource, ModelError> {
        ModelSource::open_with(path, &ReadOptions::default())
    }

    fn checkpoint(path: &Path, options: &ReadOptions) -> Result<ModelSource, ModelError> {
        if options.dequantize || !options.output_values.is_empty() {
            return Err(ModelError::misplaced(
                path,
                "--output-value and --dequantize are for ONNX files of other tools; this is a checkpoint",
            ));
        }
        let source = checkpoint::read_with(path, options)?;
        source
            .notes
            .iter()
            .for_each(|note| remark(&format!("note: {}", printable(note))));
        Ok(ModelSource::Checkpoint(source.into()))
    }

    /// Opens what `path` names, read as `options` say. Notes go to stderr.
    pub fn open_with(path: &Path, options: &ReadOptions) -> Result<ModelSource, ModelError> {
        let exported = if path.is_dir() { onnx_in(path)? } else { None };
        if let Some(onnx) = exported.as_ref().filter(|_| !checkpoint::holds_weights(path)) {
            return ModelSource::open_with(onnx, options);
        }
        if checkpoint::is_checkpoint(path) {
            let checkpoint = ModelSource::checkpoint(path, options)?;
            if let Some(onnx) = exported {
                remark(&format!(
                    "note: the checkpoint in {} is read, {} beside it is not; name the file to read that",
                    path.display(),
                    onnx.display()
                ));
            }
            return Ok(checkpoint);
        }
        // A file is told by its bytes: what is neither weights nor ONNX is refused as what it is.
        let map = ModelMap::open(path, false)?;
        if FileKind::of(map.bytes()).is_checkpoint() {
            return ModelSource::checkpoint(path, options);
        }
        if options.adapter.is_some() {
            return Err(ModelError::misplaced(
                path,
                "--adapter is merged into a checkpoint's weights; this is an ONNX file, so start from the checkpoint",
            ));
        }
        let opened = artifact::open(map.bytes());
        if let Err(ArtifactError::NotThimble) = opened {
            return import_onnx(path, options);
        }
        if *options != ReadOptions::default() {
            return Err(ModelError::misplaced(
                path,
                "--head, --adapter, --output-value and --dequantize say how another tool's model is read; this is a file of thimble's",
            ));
        }
        let resaved = matches!(opened, Err(ArtifactError::Misaligned { .. } | ArtifactError::NoTail));
        // Weights that lie row by row are read like those another tool has moved.
        let unmapped = resaved || matches!(opened, Err(ArtifactError::OtherRuntime(_)));
        let artifact = if unmapped {
            artifact::open_resaved(map.bytes())
        } else {
            opened
        }
        .map_err(|cause| ModelError::artifact(path, cause))?;
        let named = |cause| ModelError::artifact(path, cause);
        let differences = verify::differences_of(map.bytes(), &|part| map.release(part)).map_err(named)?;
        if !differences.is_empty() {
            return Err(ModelError::Contradiction {
                path: path.to_path_buf(),
                differences: differences.join("; "),
            });
        }
        let tokenizer = own_tokenizer(path, &artifact.provenance)?;
        if resaved {
            remark(&format!(
                "note: {} was saved again by another tool; its numbers are read, its layout is not",
                path.display()
            ));
        }
        if unmapped {
            return Ok(ModelSource::Checkpoint(Checkpoint {
                model: artifact
                    .model_of(map.bytes(), &|part| map.release(part))
                    .map_err(named)?,
                options: artifact.options,
                sha256: artifact.provenance.source_sha256,
                tokenizer,
                files: vec![path.to_path_buf()],
            }));
        }
        Ok(ModelSource::File(File {
            artifact,
            map,
            path: path.to_path_buf(),
            tokenizer,
        }))
    }

    /// The same with the tokenizer at `path` in place of the one beside it, where one is named. Its note goes to stderr.
    ///
    /// # Errors
    /// Where there is none or it cannot be read.
    pub fn with_tokenizer(mut self, path: Option<&Path>) -> Result<ModelSource, TokenizerError> {
        let Some(path) = path else { return Ok(self) };
        let named = tokenizer::named(path)?;
        if let Some(note) = named.note() {
            remark(&format!("note: {}", printable(&note)));
        }
        match &mut self {
            ModelSource::Checkpoint(source) => source.tokenizer = Some(named),
            ModelSource::File(file) => file.tokenizer = Some(named),
        }
        Ok(self)
    }

    /// The network's configuration.
    pub fn config(&self) -> &Config {
        match self {
            ModelSource::Checkpoint(source) => &source.model.config,
            ModelSource::File(file) => &file.artifact.graph.config,
        }
    }

    /// The tokenizer beside the model; `None` where there is none.
    pub fn tokenizer(&self) -> Option<&TokenizerSource> {
        match self {
            ModelSource::Checkpoint(source) => source.tokenizer.as_ref(),
            ModelSource::File(file) => file.tokenizer.as_ref(),
        }
    }

    /// The opset and sequence length a file already has; the defaults for a checkpoint.
    pub fn options(&self) -> LowerOptions {
        match self {
            ModelSource::Checkpoint(source) => source.options,
            ModelSource::File(file) => file.artifact.options,
        }
    }

    /// Every file the model and its tokenizer were read from: what an output must not replace.
    pub fn files(&self) -> Vec<&Path> {
        let read: Vec<&Path> = match self {
            ModelSource::Checkpoint(source) => source.files.iter().map(PathBuf::as_path).collect(),
            ModelSource::File(file) => vec![&file.path],
        };
        let tokenizer = self.tokenizer().map(TokenizerSource::files).unwrap_or_default();
        read.into_iter().chain(tokenizer).collect()
    }

    /// SHA-256 of the weights the model was made from.
    pub fn source_sha256(&self) -> Option<String> {
        match self {
            ModelSource::Checkpoint(source) => source.sha256.clone(),
            ModelSource::File(file) => file.artifact.provenance.source_sha256.clone(),
        }
    }

    /// The model as it is: a checkpoint in f32, a file in its own formats.
    pub fn model(&self) -> Result<Cow<'_, Model>, ModelError> {
        match self {
            ModelSource::Checkpoint(source) => Ok(Cow::Borrowed(&source.model)),
            ModelSource::File(file) => {
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
            ModelSource::File(file) => Some(file.map.file().clone()),
            ModelSource::Checkpoint(_) => None,
        }
    }

    /// What the engine runs.
    pub fn image(self) -> Result<Arc<Image>, ModelError> {
        match self {
            ModelSource::File(file) => Ok(Image::new(file.map)),
            ModelSource::Checkpoint(source) => Ok(image_of(&source.model)?),
        }
    }
}
