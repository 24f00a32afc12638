//! Weights as the ops see them: views into the image, found by name in the artifact. A linear weight is panels with a
//! bias and perhaps scales, a table is rows, a vector is f32. Nothing is copied; casts were checked when the view was made.

use crate::image::Image;
use crate::kernel::widen;
use half::f16;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use thimble_shared::artifact::Artifact;
use thimble_shared::graph::{Kind, WeightSpec};
use thimble_shared::lower::scale;
use thimble_shared::number::Format;
use thimble_shared::panel::PanelLayout;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    #[error("weight '{0}' is not in the model")]
    Missing(String),
    #[error("weight '{name}': {problem}")]
    Unusable { name: String, problem: String },
}

/// A run of f32 numbers in the image.
#[derive(Clone)]
pub struct Vector {
    image: Arc<Image>,
    name: String,
    range: Range<usize>,
}

/// A linear map `[out, in]` in panels, with its bias.
#[derive(Clone)]
pub struct LinearWeight {
    image: Arc<Image>,
    pub name: String,
    pub layout: PanelLayout,
    range: Range<usize>,
    scales: Option<Vector>,
    bias: Vector,
}

/// A lookup table `[rows, cols]`: row-major, or the panels of a tied decoder.
#[derive(Clone)]
pub struct TableWeight {
    image: Arc<Image>,
    pub name: String,
    /// Rows are `out`, columns `in`.
    layout: PanelLayout,
    panels: bool,
    range: Range<usize>,
    scales: Option<Vector>,
}

/// Finds weights by name in one opened file.
pub struct Weights<'a> {
    pub image: &'a Arc<Image>,
    pub artifact: &'a Artifact,
    pub specs: Vec<WeightSpec>,
}

impl<'a> Weights<'a> {
    pub fn new(image: &'a Arc<Image>, artifact: &'a Artifact) -> Weights<'a> {
        Weights {
            image,
            artifact,
            specs: artifact.graph.config.weights(),
        }
    }

    fn spec(&self, name: &str) -> Result<&WeightSpec, WeightError> {
        self.specs
            .iter()
            .find(|s| s.name == name)
            .ok_or_else(|| WeightError::Missing(name.to_string()))
    }

    /// The byte range of a stored tensor, of the size and alignment its elements need.
    fn range(&self, name: &str, bytes: usize) -> Result<Range<usize>, WeightError> {
        let unusable = |problem: String| WeightError::Unusable {
            name: name.to_string(),
            problem,
        };
        let stored = self
            .artifact
            .tensors
            .get(name)
            .ok_or_else(|| WeightError::Missing(name.to_string()))?;
        let data = self
            .image
            .bytes()
            .get(stored.range.clone())
            .ok_or_else(|| unusable("lies outside the file".into()))?;
        if data.len() != bytes {
            return Err(unusable(format!("has {} bytes, its shape needs {bytes}", data.len())));
        }
        if data.as_ptr().addr() % 64 != 0 {
            return Err(unusable("is not aligned to 64 bytes".into()));
        }
        Ok(stored.range.clone())
    }

    pub fn vector(&self, name: &str, len: usize) -> Result<Vector, WeightError> {
        let range = self.range(name, len * 4)?;
        Ok(Vector {
            image: self.image.clone(),
            name: name.to_string(),
            range,
        })
    }

    fn scales(&self, name: &str, format: Format, rows: usize) -> Result<Option<Vector>, WeightError> {
        format.has_scales().then(|| self.vector(&scale(name), rows)).transpose()
    }

    pub fn linear(&self, name: &str) -> Result<LinearWeight, WeightError> {
        self.linear_with_bias(name, &format!("{name}.bias"))
    }

    pub fn linear_with_bias(&self, name: &str, bias: &str) -> Result<LinearWeight, WeightError> {
        let spec = self.spec(name)?;
        let &[out, inp] = spec.shape.as_slice() else {
            return Err(WeightError::Missing(name.to_string()));
        };
        let layout = PanelLayout::new(self.artifact.graph.format(name), out, inp);
        Ok(LinearWeight {
            image: self.image.clone(),
            name: name.to_string(),
            layout,
            range: self.range(name, layout.bytes())?,
            scales: self.scales(name, layout.format, out)?,
            bias: self.vector(bias, out)?,
        })
    }

    pub fn table(&self, name: &str) -> Result<TableWeight, WeightError> {
        let spec = self.spec(name)?;
        let &[rows, cols] = spec.shape.as_slice() else {
            return Err(WeightError::Missing(name.to_string()));
        };
        let layout = PanelLayout::new(self.artifact.graph.format(name), rows, cols);
        let panels = spec.kind == Kind::Linear;
        let bytes = if panels {
            layout.bytes()
        } else {
            rows * cols * layout.format.element_bytes()
        };
        Ok(TableWeight {
            image: self.image.clone(),
            name: name.to_string(),
            layout,
            panels,
            range: self.range(name, bytes)?,
            scales: self.scales(name, layout.format, rows)?,
        })
    }
}

impl Vector {
    pub fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.image.bytes()[self.range.clone()])
    }
}

impl LinearWeight {
    /// The elements of whole panels, in the stored type, which must be `T`.
    pub fn panels<T: bytemuck::Pod>(&self, panels: Range<usize>) -> &[T] {
        let bytes = self.layout.panel_bytes();
        let all = &self.image.bytes()[self.range.clone()];
        bytemuck::cast_slice(&all[panels.start * bytes..panels.end * bytes])
    }

    /// One int8 scale per output channel; empty in other formats.
    pub fn scales(&self) -> &[f32] {
        self.scales.as_ref().map_or(&[], Vector::values)
    }

    pub fn bias(&self) -> &[f32] {
        self.bias.values()
    }
}

impl TableWeight {
    pub fn rows(&self) -> usize {
        self.layout.out
    }

    pub fn cols(&self) -> usize {
        self.layout.inp
    }

    pub fn format(&self) -> Format {
        self.layout.format
    }

    /// Adds one row to `to`, in f32. Only the pages the row lies on are touched.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        let data = &self.image.bytes()[self.range.clone()];
        let cols = self.cols();
        match self.format() {
            Format::F32 => self.add(row, bytemuck::cast_slice::<u8, f32>(data), to, |v| v),
            Format::F16 => self.add(row, bytemuck::cast_slice::<u8, f16>(data), to, |v| {
                let mut wide = [0.0];
                widen(&[v], &mut wide);
                wide[0]
            }),
            Format::I8 => {
                let scale = self.scales.as_ref().map_or(0.0, |s| s.values()[row]);
                self.add(row, bytemuck::cast_slice::<u8, i8>(data), &mut to[..cols], |v| {
                    f32::from(v) * scale
                });
            }
        }
    }

    fn add<T: Copy>(&self, row: usize, data: &[T], to: &mut [f32], widen: impl Fn(T) -> f32) {
        if self.panels {
            for (j, to) in to.iter_mut().enumerate() {
                *to += widen(data[self.layout.index(row, j)]);
            }
        } else {
            for (to, &v) in to.iter_mut().zip(&data[row * self.cols()..][..self.cols()]) {
                *to += widen(v);
            }
        }
    }
}

macro_rules! identity {
    ($($type:ty),*) => {$(
        /// Same weight of the same image.
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.image, &other.image) && self.name == other.name && self.range == other.range
            }
        }
        impl Eq for $type {}
    )*};
}
identity!(Vector, LinearWeight, TableWeight);

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.range.len() / 4)
    }
}

impl fmt::Debug for LinearWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}x{} {}",
            self.name, self.layout.out, self.layout.inp, self.layout.format
        )
    }
}

impl fmt::Debug for TableWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.panels { ", in the decoder's panels" } else { "" };
        write!(
            f,
            "{} {}x{} {}{order}",
            self.name,
            self.rows(),
            self.cols(),
            self.format()
        )
    }
}
