//! A model in memory, for the engine.

use anyhow::Result;
use std::sync::Arc;
use thimble_device::image::Image;
use thimble_device::image::buffer::Buffer;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{Provenance, Writer};
use thimble_shared::model::Model;

/// A model in memory, as the engine would map it from a file.
pub fn image_of(model: &Model) -> Result<Arc<Image>> {
    let writer = Writer::new(model, LowerOptions::default(), &Provenance::default())?;
    let len = writer.size();
    let mut buffer = Buffer::with_room(len)?;
    writer.write_to(&mut buffer.take::<u8>(len))?;
    Ok(Image::of(buffer, len))
}
