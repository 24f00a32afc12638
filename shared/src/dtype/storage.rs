//! The kinds of numbers that files and memory hold, which several formats may share, and the parts they are stored in. What a
//! stored number stands for follows from its kind: itself, or an integer times its block's multiplier times its row's scale.

use half::f16;
use std::ops::Range;

/// What the numbers of a weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// binary32.
    F32,
    /// binary16.
    F16,
    /// int8 and one f32 scale per row: value = `q * scale[row]`.
    I8,
    /// int4 in blocks of [`I4_BLOCK`] columns, the last one perhaps shorter, a multiplier per block and one f32 scale per row:
    /// value = `q * multiplier[row][block] * scale[row]`.
    I4,
}

/// Inputs (columns) of an int4 row that share one multiplier.
pub const I4_BLOCK: usize = 32;
/// The largest multiplier of an int4 block: -8 × 15 = -120 is still an int8 that [`super::I8_MAX`] allows.
pub const I4_MULTIPLIER_MAX: u8 = 15;

/// What a stored tensor holds of its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The numbers themselves, under the weight's own name.
    Numbers,
    /// One f32 per row, as `NAME.scale`.
    Scales,
    /// One u8 per row and block of an int4 weight, as `NAME.mult`.
    Multipliers,
}

impl Part {
    /// In the order files store them.
    pub const ALL: [Part; 3] = [Part::Scales, Part::Multipliers, Part::Numbers];

    /// Name of the initializer that holds this part of a weight.
    pub fn of(self, weight: &str) -> String {
        match self {
            Part::Numbers => weight.to_string(),
            Part::Scales => format!("{weight}.scale"),
            Part::Multipliers => format!("{weight}.mult"),
        }
    }
}

impl Storage {
    /// Bits of one number.
    pub const fn bits(self) -> usize {
        match self {
            Storage::F32 => 32,
            Storage::F16 => 16,
            Storage::I8 => 8,
            Storage::I4 => 4,
        }
    }

    /// The parts of a weight.
    pub const fn parts(self) -> &'static [Part] {
        match self {
            Storage::F32 | Storage::F16 => &[Part::Numbers],
            Storage::I8 => &[Part::Scales, Part::Numbers],
            Storage::I4 => &[Part::Scales, Part::Multipliers, Part::Numbers],
        }
    }

    /// Whether a weight has this part.
    pub fn has(self, part: Part) -> bool {
        self.parts().contains(&part)
    }
}

/// The integers a format uses, the least to the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The least.
    pub least: i8,
    /// The greatest.
    pub most: i8,
}

impl Levels {
    /// The nearest to `x / step`, ties to even as ONNX's Round; 0 where the step is.
    pub fn nearest(self, x: f32, step: f32) -> i8 {
        if step == 0.0 {
            0
        } else {
            let (least, most) = self.ends();
            (x / step).round_ties_even().clamp(least, most) as i8
        }
    }

    /// The least and the greatest, as numbers to compute with.
    pub fn ends(self) -> (f32, f32) {
        (self.least.into(), self.most.into())
    }

    /// The first of these numbers that is none of them.
    pub fn first_outside(self, q: &[i8]) -> Option<i8> {
        let outside = |q: &i8| *q < self.least || *q > self.most;
        // A chunk at a time, without a way out in its middle: that is what compilers make vector code of.
        let any = |chunk: &[i8]| chunk.iter().fold(false, |any, q| any | outside(q));
        let chunk = q.chunks(4096).find(|chunk| any(chunk))?;
        chunk.iter().copied().find(outside)
    }
}

/// The largest magnitude.
pub fn absmax(row: &[f32]) -> f32 {
    row.iter().fold(0f32, |m, x| m.max(x.abs()))
}

/// Stored numbers, in logical row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// As they are.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<f16>),
    /// `scales.len()` rows.
    I8 {
        /// Row-major, from -127 to 127.
        q: Vec<i8>,
        /// One per row.
        scales: Vec<f32>,
    },
    /// `scales.len()` rows, each of as many multipliers as it has blocks.
    I4 {
        /// Row-major, from -8 to 7, one number a byte.
        q: Vec<i8>,
        /// One per row and block, row by row; at most [`I4_MULTIPLIER_MAX`].
        multipliers: Vec<u8>,
        /// One per row.
        scales: Vec<f32>,
    },
}

impl Numbers {
    /// int8 numbers nearest to rows of `data` with the given scales; a zero scale stores zeros.
    pub(super) fn rows(data: &[f32], scales: Vec<f32>, levels: Levels) -> Numbers {
        let cols = columns(data.len(), scales.len());
        let rows = data.chunks(cols).zip(&scales);
        let q = rows
            .flat_map(|(row, &scale)| row.iter().map(move |&x| levels.nearest(x, scale)))
            .collect();
        Numbers::I8 { q, scales }
    }

    /// int4 numbers nearest to rows of `data` with the given multipliers and scales; a zero scale stores zeros.
    pub(super) fn blocks(data: &[f32], multipliers: Vec<u8>, scales: Vec<f32>, levels: Levels) -> Numbers {
        let cols = columns(data.len(), scales.len());
        let rows = data
            .chunks(cols)
            .zip(multipliers.chunks(cols.div_ceil(I4_BLOCK)))
            .zip(&scales);
        let q = rows
            .flat_map(|((row, multipliers), &scale)| {
                let blocks = row.chunks(I4_BLOCK).zip(multipliers);
                blocks.flat_map(move |(block, &m)| block.iter().map(move |&x| levels.nearest(x, f32::from(m) * scale)))
            })
            .collect();
        Numbers::I4 { q, multipliers, scales }
    }

    /// What they are.
    pub fn storage(&self) -> Storage {
        match self {
            Numbers::F32(_) => Storage::F32,
            Numbers::F16(_) => Storage::F16,
            Numbers::I8 { .. } => Storage::I8,
            Numbers::I4 { .. } => Storage::I4,
        }
    }

    /// How many; scales and multipliers are not counted.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(v) => v.len(),
            Numbers::F16(v) => v.len(),
            Numbers::I8 { q, .. } | Numbers::I4 { q, .. } => q.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One scale per row; empty in floating point.
    pub fn scales(&self) -> &[f32] {
        match self {
            Numbers::F32(_) | Numbers::F16(_) => &[],
            Numbers::I8 { scales, .. } | Numbers::I4 { scales, .. } => scales,
        }
    }

    /// The int8 numbers that `scale[row]` belongs to: for int4, each number times its block's multiplier. None in floating
    /// point.
    pub fn int8s(&self) -> Option<Vec<i8>> {
        match self {
            Numbers::F32(_) | Numbers::F16(_) => None,
            Numbers::I8 { q, .. } => Some(q.clone()),
            Numbers::I4 { q, multipliers, scales } => {
                let cols = columns(q.len(), scales.len());
                let rows = q.chunks(cols).zip(multipliers.chunks(cols.div_ceil(I4_BLOCK)));
                Some(
                    rows.flat_map(|(row, multipliers)| row.chunks(I4_BLOCK).zip(multipliers))
                        .flat_map(|(block, &m)| block.iter().map(move |&x| x.saturating_mul(m as i8)))
                        .collect(),
                )
            }
        }
    }

    /// What the stored numbers stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Numbers::F32(v) => v.clone(),
            Numbers::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Numbers::I8 { scales, .. } | Numbers::I4 { scales, .. } => {
                let q = self.int8s().unwrap_or_default();
                q.chunks(columns(q.len(), scales.len()))
                    .zip(scales)
                    .flat_map(|(row, &s)| row.iter().map(move |&x| f32::from(x) * s))
                    .collect()
            }
        }
    }

    /// Some rows, each of `cols` numbers.
    pub(crate) fn some_rows(&self, rows: Range<usize>, cols: usize) -> Numbers {
        let times = |n: usize| rows.start * n..rows.end * n;
        match self {
            Numbers::F32(v) => Numbers::F32(v[times(cols)].to_vec()),
            Numbers::F16(v) => Numbers::F16(v[times(cols)].to_vec()),
            Numbers::I8 { q, scales } => Numbers::I8 {
                q: q[times(cols)].to_vec(),
                scales: scales[rows.clone()].to_vec(),
            },
            Numbers::I4 { q, multipliers, scales } => Numbers::I4 {
                q: q[times(cols)].to_vec(),
                multipliers: multipliers[times(cols.div_ceil(I4_BLOCK))].to_vec(),
                scales: scales[rows.clone()].to_vec(),
            },
        }
    }

    /// Makes room for `elements` numbers in all.
    pub(crate) fn reserve(&mut self, elements: usize) {
        let more = elements.saturating_sub(self.len());
        match self {
            Numbers::F32(v) => v.reserve_exact(more),
            Numbers::F16(v) => v.reserve_exact(more),
            Numbers::I8 { q, .. } | Numbers::I4 { q, .. } => q.reserve_exact(more),
        }
    }

    /// Adds the rows of `more`, which are of the same kind.
    pub(crate) fn append(&mut self, more: Numbers) {
        match (self, more) {
            (Numbers::F32(a), Numbers::F32(b)) => a.extend(b),
            (Numbers::F16(a), Numbers::F16(b)) => a.extend(b),
            (Numbers::I8 { q, scales }, Numbers::I8 { q: b, scales: s }) => {
                q.extend(b);
                scales.extend(s);
            }
            (
                Numbers::I4 { q, multipliers, scales },
                Numbers::I4 {
                    q: b,
                    multipliers: m,
                    scales: s,
                },
            ) => {
                q.extend(b);
                multipliers.extend(m);
                scales.extend(s);
            }
            (all, more) => unreachable!("{:?} rows beside {:?} ones", more.storage(), all.storage()),
        }
    }
}

/// Columns of so many numbers in so many rows, at least one.
fn columns(numbers: usize, rows: usize) -> usize {
    numbers.checked_div(rows).unwrap_or(0).max(1)
}
