//! Weights as the ops see them: views into the image, found by name in the artifact. A linear weight is panels with a
//! bias and perhaps scales and multipliers, a table is rows, a vector is f32. Nothing is copied; casts were checked when the view was made.

use crate::engine::kernels::{expand, fits_four, widen};
use crate::image::Image;
use half::f16;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};
use thimble_shared::artifact::Artifact;
use thimble_shared::artifact::layout::{ALIGNMENT, I4_BLOCK_BYTES, I4_OFFSET, I8_DEPTH, PANEL_ROWS, PanelLayout};
use thimble_shared::artifact::runtime::Order;
use thimble_shared::artifact::tensors::{self, Part};
use thimble_shared::dtype::{Format, I4_BLOCK, InputRange, Storage};
use thimble_shared::model::{Kind, Role, Site, WeightSpec};

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

/// A weight of two dimensions: its panels or rows, scales and multipliers.
#[derive(Clone)]
pub struct Matrix {
    image: Arc<Image>,
    pub name: String,
    pub format: Format,
    pub layout: PanelLayout,
    range: Range<usize>,
    scales: Option<Vector>,
    multipliers: Option<Range<usize>>,
}

/// A linear map `[out, in]` in panels, with its bias.
#[derive(Clone)]
pub struct LinearWeight {
    matrix: Matrix,
    pub role: Role,
    /// The layer it belongs to, if it belongs to one.
    pub site: Option<Site>,
    bias: Vector,
    /// See [`LinearWeight::chains`].
    chains: Arc<OnceLock<Vec<u8>>>,
    /// See [`LinearWeight::row_sums`].
    row_sums: Arc<OnceLock<Vec<f32>>>,
}

/// A lookup table `[rows, cols]`: row-major, or the panels of a tied decoder. Rows are the matrix's `out`, columns its `in`.
#[derive(Clone)]
pub struct TableWeight {
    matrix: Matrix,
    panels: bool,
}

impl Deref for LinearWeight {
    type Target = Matrix;

    fn deref(&self) -> &Matrix {
        &self.matrix
    }
}

impl Deref for TableWeight {
    type Target = Matrix;

    fn deref(&self) -> &Matrix {
        &self.matrix
    }
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
        if !data.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(unusable(format!("is not aligned to {ALIGNMENT} bytes")));
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

    /// A weight of two dimensions, and how it is stored.
    fn matrix(&self, name: &str) -> Result<(Matrix, &WeightSpec), WeightError> {
        let spec = self.spec(name)?;
        let &[out, inp] = spec.shape.as_slice() else {
            return Err(WeightError::Missing(name.to_string()));
        };
        let format = self.artifact.graph.format(name);
        let part = |part| {
            let tensor = tensors::tensor(spec, format, part, Order::Panels);
            tensor.map(|t| self.range(&t.name, t.bytes())).transpose()
        };
        let range = part(Part::Numbers)?.ok_or_else(|| WeightError::Missing(name.to_string()))?;
        let scales = part(Part::Scales)?.map(|range| Vector {
            image: self.image.clone(),
            name: Part::Scales.of(name),
            range,
        });
        let matrix = Matrix {
            image: self.image.clone(),
            name: name.to_string(),
            format,
            layout: PanelLayout::new(format.storage(), out, inp),
            range,
            scales,
            multipliers: part(Part::Multipliers)?,
        };
        Ok((matrix, spec))
    }

    pub fn linear(&self, name: &str, bias: &str) -> Result<LinearWeight, WeightError> {
        let (matrix, spec) = self.matrix(name)?;
        Ok(LinearWeight {
            bias: self.vector(bias, matrix.layout.out)?,
            role: spec.role,
            site: spec.site,
            matrix,
            chains: Arc::default(),
            row_sums: Arc::default(),
        })
    }

    pub fn table(&self, name: &str) -> Result<TableWeight, WeightError> {
        let (matrix, spec) = self.matrix(name)?;
        Ok(TableWeight {
            panels: spec.kind == Kind::Linear,
            matrix,
        })
    }
}

impl Vector {
    pub fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.image.bytes()[self.range.clone()])
    }
}

impl Matrix {
    /// Its numbers as they lie in the image.
    fn numbers(&self) -> &[u8] {
        &self.image.bytes()[self.range.clone()]
    }

    /// Its int4 multipliers; empty in other formats.
    fn all_multipliers(&self) -> &[u8] {
        let range = self.multipliers.clone();
        range.map_or(&[], |range| &self.image.bytes()[range])
    }

    /// One scale per row; empty in formats without.
    pub fn scales(&self) -> &[f32] {
        self.scales.as_ref().map_or(&[], Vector::values)
    }
}

impl LinearWeight {
    /// The elements of whole panels, in the stored type, which must be `T`.
    pub fn panels<T: bytemuck::Pod>(&self, panels: Range<usize>) -> &[T] {
        let bytes = self.layout.panel_bytes();
        bytemuck::cast_slice(&self.numbers()[panels.start * bytes..panels.end * bytes])
    }

    /// int4 multipliers of whole panels, `[panel][block][8]`; empty in other formats.
    pub fn multipliers(&self, panels: Range<usize>) -> &[u8] {
        let of_panel = self.layout.blocks() * PANEL_ROWS;
        match self.all_multipliers() {
            [] => &[],
            all => &all[panels.start * of_panel..panels.end * of_panel],
        }
    }

    /// What [`fits_four`] says of some panels as int8 kernels see them. The first call reads the whole weight.
    pub fn chains(&self, panels: Range<usize>) -> &[u8] {
        let all = self.chains.get_or_init(|| {
            let mut all = Vec::with_capacity(self.layout.panels() * self.steps());
            self.each_panel(|panel, _| all.extend(fits_four(panel)));
            all
        });
        &all[panels.start * self.steps()..panels.end * self.steps()]
    }

    /// What an input of all ones gives in each channel: the sum of its int8 numbers times its scale. Empty in formats that
    /// quantize no input around a center. The first call reads the whole weight.
    pub fn row_sums(&self) -> &[f32] {
        if !self.format.input_range().is_some_and(InputRange::is_moved) {
            return &[];
        }
        self.row_sums.get_or_init(|| {
            let mut sums = Vec::with_capacity(self.layout.padded_out());
            self.each_panel(|panel, depth| sums.extend(expand::row_sums(panel, depth)));
            // Whole numbers below 2^24, which f32 holds.
            let sums = sums.into_iter().zip(self.scales());
            sums.map(|(sum, scale)| sum as f32 * scale).collect()
        })
    }

    /// Each panel as int8 kernels see it, with its padded inputs; nothing in formats of floating point, whose products are in f32.
    fn each_panel(&self, mut see: impl FnMut(&[i8], usize)) {
        let panels = 0..self.layout.panels();
        let one = |panel| panel..panel + 1;
        match self.layout.storage {
            Storage::F32 | Storage::F16 => {}
            Storage::I8 => panels.for_each(|panel| see(self.panels(one(panel)), self.layout.padded_in())),
            Storage::I4 => {
                let depth = self.steps() * I8_DEPTH;
                let mut wide = vec![0; depth * PANEL_ROWS];
                for panel in panels {
                    self.expand_int4(one(panel), &mut wide);
                    see(&wide, depth);
                }
            }
        }
    }

    /// Steps of [`I8_DEPTH`] inputs of one panel.
    fn steps(&self) -> usize {
        self.layout.inp.div_ceil(I8_DEPTH)
    }

    /// Inputs of the int8 panels that int4 panels stand for, with padding.
    pub fn expanded_depth(&self) -> usize {
        self.steps() * I8_DEPTH
    }

    /// int4 panels as the int8 panels they stand for.
    pub fn expand_int4(&self, panels: Range<usize>, wide: &mut [i8]) {
        let multipliers = self.multipliers(panels.clone());
        expand::int4(self.panels(panels), multipliers, self.steps() * I8_DEPTH, wide);
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

    /// Adds one row to `to`, in f32. Only the pages the row lies on are touched.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        let data = self.numbers();
        let scale = self.scales().get(row).copied().unwrap_or_default();
        match self.layout.storage {
            Storage::F32 => self.add(row, bytemuck::cast_slice::<u8, f32>(data), to, |v| v),
            Storage::F16 => self.add(row, bytemuck::cast_slice::<u8, f16>(data), to, |v| {
                let mut wide = [0.0];
                widen(&[v], &mut wide);
                wide[0]
            }),
            Storage::I8 => {
                self.add(row, bytemuck::cast_slice::<u8, i8>(data), to, |v| f32::from(v) * scale);
            }
            Storage::I4 => {
                let multipliers = self.all_multipliers();
                for (j, to) in to.iter_mut().enumerate() {
                    let (number, multiplier) = self.int4(row, j, data, multipliers);
                    *to += f32::from(number.wrapping_mul(multiplier as i8)) * scale;
                }
            }
        }
    }

    /// The int4 number at a row and column, and its block's multiplier.
    fn int4(&self, row: usize, column: usize, data: &[u8], multipliers: &[u8]) -> (i8, u8) {
        let (blocks, block) = (self.layout.blocks(), column / I4_BLOCK);
        // Numbers of one run share bytes: the first half of a run lies in the low halves.
        let (at, half, multiplier) = if self.panels {
            let multiplier = multipliers[self.layout.multiplier_index(row, block)];
            (self.layout.index(row, column), I4_BLOCK_BYTES, multiplier)
        } else {
            let multiplier = multipliers[row * blocks + block];
            (row * blocks * I4_BLOCK + column, I4_BLOCK / 2, multiplier)
        };
        let byte = data[at / (2 * half) * half + at % half];
        let nibble = if at % (2 * half) < half { byte & 15 } else { byte >> 4 };
        (nibble as i8 - I4_OFFSET, multiplier)
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
            self.name, self.layout.out, self.layout.inp, self.format
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
            self.format
        )
    }
}
