//! A model in memory, for the engine.

use std::collections::TryReserveError;
use std::sync::Arc;
use thimble_device::image::Image;
use thimble_device::image::buffer::Buffer;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{ArtifactError, Provenance, Writer};
use thimble_shared::model::Model;

/// Why a model could not be laid out in memory.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not hold the model, nor can memory.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// There is not enough memory.
    #[error(transparent)]
    Memory(#[from] TryReserveError),
    /// The layout has another length than it said.
    #[error(transparent)]
    Write(#[from] std::io::Error),
}

/// A model in memory, as the engine would map it from a file.
///
/// # Errors
/// What a file cannot hold, or too little memory.
pub fn image_of(model: &Model) -> Result<Arc<Image>, ImageError> {
    let writer = Writer::new(model, LowerOptions::default(), &Provenance::default())?;
    let len = writer.size();
    let mut buffer = Buffer::with_room(len)?;
    writer.write_to(&mut buffer.take::<u8>(len))?;
    Ok(Image::of(buffer, len))
}
