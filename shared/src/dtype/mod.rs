//! The number formats a weight can be stored in: name, size, range and rounding. Values go in as `f32` in logical row-major
//! order (`[out, in]` or `[rows, cols]`) and come out as [`Values`], still in logical order; the panel order is `panel`'s idea.

use half::f16;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// How the numbers of one weight are stored, and what arithmetic its use states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16 storage, widened to f32 before any arithmetic.
    F16,
    /// Symmetric int8 with one f32 scale per output channel (per row of a table), widened to f32 before any arithmetic.
    W8,
    /// The numbers of `W8`, but a linear weight in this format also quantises its input per token at run time and
    /// multiplies in int8 × int8 → int32.
    I8,
    /// The numbers of `I8`, but a linear weight in this format quantises its input per token around the middle of the
    /// token's range, so that one-sided inputs use all 255 steps; the middle times the row sums is added back in f32.
    I8A,
    /// int4 in blocks of 32 inputs (columns). A block has an integer multiplier and a row an f32 scale, so that number ×
    /// multiplier is an int8 and everything after it is the arithmetic of `I8`.
    I4,
}

impl Format {
    /// Every format, in the order of the declaration.
    pub const ALL: [Format; 6] = [
        Format::F32,
        Format::F16,
        Format::W8,
        Format::I8,
        Format::I8A,
        Format::I4,
    ];

    /// As files, flags and reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::W8 => "w8",
            Format::I8 => "i8",
            Format::I8A => "i8a",
            Format::I4 => "i4",
        }
    }

    /// The version of the `thimble.graph` text that brought the format.
    pub fn since(self) -> u32 {
        match self {
            Format::F32 | Format::F16 | Format::W8 | Format::I8 | Format::I4 => 1,
            Format::I8A => 2,
        }
    }

    /// Bits of one number of the payload.
    pub fn bits(self) -> usize {
        match self {
            Format::F32 => 32,
            Format::F16 => 16,
            Format::W8 | Format::I8 | Format::I8A => 8,
            Format::I4 => 4,
        }
    }

    /// Whether a tensor of f32 scales, one per row, stands beside the payload.
    pub fn has_scales(self) -> bool {
        match self {
            Format::F32 | Format::F16 => false,
            Format::W8 | Format::I8 | Format::I8A | Format::I4 => true,
        }
    }

    /// How a linear weight of this format quantises its input to int8 per token; None where it does not.
    pub fn input_range(self) -> Option<InputRange> {
        match self {
            Format::F32 | Format::F16 | Format::W8 => None,
            Format::I8 | Format::I4 => Some(InputRange::Symmetric),
            Format::I8A => Some(InputRange::Centred),
        }
    }

    /// Whether a linear weight of this format quantises its input to int8 per token.
    pub fn quantises_input(self) -> bool {
        self.input_range().is_some()
    }
}

/// Which range of a token's values the steps of its int8 cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputRange {
    /// From minus to plus the largest magnitude.
    #[default]
    Symmetric,
    /// From the least to the greatest value.
    Centred,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "fp32" => Ok(Format::F32),
            "fp16" => Ok(Format::F16),
            "int8" => Ok(Format::I8),
            "int8a" => Ok(Format::I8A),
            "int4" => Ok(Format::I4),
            _ => Format::ALL.into_iter().find(|f| f.name() == s).ok_or_else(|| {
                let known: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
                format!("unknown number format '{s}'; known are {}", known.join(", "))
            }),
        }
    }
}

/// The largest magnitude an int8 weight or activation takes. -128 is never used: two products of it overflow the i16 step
/// of the SMULL + SMLAL kernel on CPUs without dot-product instructions.
pub const I8_MAX: f32 = 127.0;

/// Most inputs of a linear weight that is multiplied in int8: 2¹⁶ products of 127 × 127 still fit an int32 sum.
pub const I8_INPUTS: usize = 1 << 16;

/// Inputs (columns) of an int4 row that share one multiplier.
pub const I4_BLOCK: usize = 32;
/// Least and largest int4 number.
pub const I4_RANGE: (i8, i8) = (-8, 7);
/// The largest multiplier of an int4 block: -8 × 15 = -120 is still an int8 that [`I8_MAX`] allows.
pub const I4_MULTIPLIER_MAX: u8 = 15;

/// The least value the per-token maximum is raised to before it divides, so an all-zero token quantises to zeros.
pub const ACTIVATION_FLOOR: f32 = 1e-30;

/// The numbers of one weight in one format, in logical row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// As they are.
    F32(Vec<f32>),
    /// Widened to f32 before any arithmetic.
    F16(Vec<f16>),
    /// `scales.len()` rows; value = `q * scale[row]`.
    W8 {
        /// Row-major, from -127 to 127.
        q: Vec<i8>,
        /// One per row.
        scales: Vec<f32>,
    },
    /// The same numbers as `W8`.
    I8 {
        /// Row-major, from -127 to 127.
        q: Vec<i8>,
        /// One per row.
        scales: Vec<f32>,
    },
    /// The same numbers as `W8`.
    I8A {
        /// Row-major, from -127 to 127.
        q: Vec<i8>,
        /// One per row.
        scales: Vec<f32>,
    },
    /// `scales.len()` rows, each cut into blocks of [`I4_BLOCK`] columns, the last one perhaps shorter;
    /// value = `q * multiplier[row][block] * scale[row]`.
    I4 {
        /// Row-major, from -8 to 7, one number a byte.
        q: Vec<i8>,
        /// One per row and block, row by row; at most [`I4_MULTIPLIER_MAX`].
        multipliers: Vec<u8>,
        /// One per row.
        scales: Vec<f32>,
    },
}

impl Values {
    /// The format these numbers are in.
    pub fn format(&self) -> Format {
        match self {
            Values::F32(_) => Format::F32,
            Values::F16(_) => Format::F16,
            Values::W8 { .. } => Format::W8,
            Values::I8 { .. } => Format::I8,
            Values::I8A { .. } => Format::I8A,
            Values::I4 { .. } => Format::I4,
        }
    }

    /// Numbers of the weight; scales and multipliers are not counted.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. } | Values::I4 { q, .. } => q.len(),
        }
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One scale per row; empty in formats without.
    pub fn scales(&self) -> &[f32] {
        match self {
            Values::F32(_) | Values::F16(_) => &[],
            Values::W8 { scales, .. }
            | Values::I8 { scales, .. }
            | Values::I8A { scales, .. }
            | Values::I4 { scales, .. } => scales,
        }
    }

    /// Rounds `data` to nearest in `format`. int8 takes each row's scale from its largest magnitude; int4 takes each
    /// block's step from the block's, rounded to a multiple of the row's scale.
    pub fn round_to_nearest(format: Format, data: &[f32], rows: usize) -> Values {
        let cols = data.len().checked_div(rows).unwrap_or(0).max(1);
        match format {
            Format::F32 => Values::F32(data.to_vec()),
            Format::F16 => Values::F16(data.iter().map(|&x| f16::from_f32(x)).collect()),
            Format::W8 => {
                let (q, scales) = nearest_int8(data, cols);
                Values::W8 { q, scales }
            }
            Format::I8 => {
                let (q, scales) = nearest_int8(data, cols);
                Values::I8 { q, scales }
            }
            Format::I8A => {
                let (q, scales) = nearest_int8(data, cols);
                Values::I8A { q, scales }
            }
            Format::I4 => {
                let (mut scales, mut multipliers) = (vec![], vec![]);
                for row in data.chunks(cols) {
                    let (scale, row) = i4_steps(row);
                    scales.push(scale);
                    multipliers.extend(row);
                }
                Values::int4(data, multipliers, scales)
            }
        }
    }

    /// int8 with the given scale per row; a zero scale stores zeros.
    pub fn int8(data: &[f32], scales: &[f32]) -> Values {
        Values::I8 {
            q: int8(data, scales),
            scales: scales.to_vec(),
        }
    }

    /// int4 rounded to nearest with the given steps; a zero scale stores zeros.
    pub fn int4(data: &[f32], multipliers: Vec<u8>, scales: Vec<f32>) -> Values {
        let cols = data.len().checked_div(scales.len()).unwrap_or(0).max(1);
        let rows = data
            .chunks(cols)
            .zip(multipliers.chunks(cols.div_ceil(I4_BLOCK)))
            .zip(&scales);
        let q = rows
            .flat_map(|((row, multipliers), &scale)| {
                let blocks = row.chunks(I4_BLOCK).zip(multipliers);
                blocks.flat_map(move |(block, &m)| block.iter().map(move |&x| i4(x, f32::from(m) * scale)))
            })
            .collect();
        Values::I4 { q, multipliers, scales }
    }

    /// The int8 numbers that `scale[row]` belongs to: for int4, each number times its block's multiplier. None in formats
    /// without scales.
    pub fn int8s(&self) -> Option<Vec<i8>> {
        match self {
            Values::F32(_) | Values::F16(_) => None,
            Values::W8 { q, .. } | Values::I8 { q, .. } | Values::I8A { q, .. } => Some(q.clone()),
            Values::I4 { q, multipliers, scales } => {
                let cols = q.len().checked_div(scales.len()).unwrap_or(0).max(1);
                let rows = q.chunks(cols).zip(multipliers.chunks(cols.div_ceil(I4_BLOCK)));
                Some(
                    rows.flat_map(|(row, multipliers)| row.chunks(I4_BLOCK).zip(multipliers))
                        .flat_map(|(block, &m)| block.iter().map(move |&x| x.saturating_mul(m as i8)))
                        .collect(),
                )
            }
        }
    }

    /// The same numbers in a format that holds them as they are: the format itself, f32, or int8 made of int8 or
    /// int4. None where something would have to be rounded.
    pub fn exactly(&self, format: Format) -> Option<Values> {
        if self.format() == format {
            return Some(self.clone());
        }
        let scales = self.scales().to_vec();
        match format {
            Format::F32 => Some(Values::F32(self.to_f32())),
            Format::W8 => self.int8s().map(|q| Values::W8 { q, scales }),
            Format::I8 => self.int8s().map(|q| Values::I8 { q, scales }),
            Format::I8A => self.int8s().map(|q| Values::I8A { q, scales }),
            Format::F16 | Format::I4 => None,
        }
    }

    /// The numbers as f32, borrowed where they are.
    pub fn as_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Values::F32(v) => Cow::Borrowed(v),
            other => Cow::Owned(other.to_f32()),
        }
    }

    /// Back to f32: what the stored numbers stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Values::F32(v) => v.clone(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::W8 { scales, .. }
            | Values::I8 { scales, .. }
            | Values::I8A { scales, .. }
            | Values::I4 { scales, .. } => {
                let q = self.int8s().unwrap_or_default();
                let cols = q.len().checked_div(scales.len()).unwrap_or(0).max(1);
                q.chunks(cols)
                    .zip(scales)
                    .flat_map(|(row, &s)| row.iter().map(move |&x| f32::from(x) * s))
                    .collect()
            }
        }
    }
}

/// The scale that maps the largest magnitude of `row` to 127.
pub fn absmax_scale(row: &[f32]) -> f32 {
    absmax(row) / I8_MAX
}

fn absmax(row: &[f32]) -> f32 {
    row.iter().fold(0f32, |m, x| m.max(x.abs()))
}

/// The scale of an int4 row and the multiplier of each of its blocks, from the largest magnitudes.
fn i4_steps(row: &[f32]) -> (f32, Vec<u8>) {
    let step = |block: &[f32]| absmax(block) / f32::from(I4_RANGE.1);
    let most = f32::from(I4_MULTIPLIER_MAX);
    let scale = step(row) / most;
    let multiplier = |block| {
        if scale == 0.0 {
            1
        } else {
            (step(block) / scale).round_ties_even().clamp(1.0, most) as u8
        }
    };
    (scale, row.chunks(I4_BLOCK).map(multiplier).collect())
}

/// int8 numbers and the scale of each row of `cols`, from its largest magnitude.
fn nearest_int8(data: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>) {
    let scales: Vec<f32> = data.chunks(cols).map(absmax_scale).collect();
    (int8(data, &scales), scales)
}

fn int8(data: &[f32], scales: &[f32]) -> Vec<i8> {
    let cols = data.len().checked_div(scales.len()).unwrap_or(0).max(1);
    data.chunks(cols)
        .zip(scales)
        .flat_map(|(row, &scale)| row.iter().map(move |&x| quantise(x, scale)))
        .collect()
}

/// Nearest int8 in [-127, 127], ties to even as ONNX's Round.
pub fn quantise(x: f32, scale: f32) -> i8 {
    nearest(x, scale, (-I8_MAX, I8_MAX))
}

/// Nearest int4 in [-8, 7], ties to even.
pub fn i4(x: f32, step: f32) -> i8 {
    nearest(x, step, (f32::from(I4_RANGE.0), f32::from(I4_RANGE.1)))
}

fn nearest(x: f32, step: f32, (least, most): (f32, f32)) -> i8 {
    if step == 0.0 {
        0
    } else {
        (x / step).round_ties_even().clamp(least, most) as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_never_reaches_minus_128_and_halves_round_to_even() {
        let cases = [
            (-1.0, 1.0 / 127.0, -127),
            (-1e9, 1.0, -127),
            (2.5, 1.0, 2),
            (3.5, 1.0, 4),
            (-0.5, 1.0, 0),
            (9.0, 0.0, 0),
        ];
        for (x, scale, want) in cases {
            assert_eq!(quantise(x, scale), want, "{x} / {scale}");
        }
    }

    #[test]
    fn rounding_keeps_each_row_within_half_a_step() {
        let data = [0.5f32, -1.0, 0.25, 100.0, 3.0, -7.0];
        for format in [Format::W8, Format::I8, Format::I8A] {
            let values = Values::round_to_nearest(format, &data, 2);
            for (i, (a, b)) in data.iter().zip(&values.to_f32()).enumerate() {
                assert!(
                    (a - b).abs() <= values.scales()[i / 3] * 0.5001,
                    "{format}: {a} became {b}"
                );
            }
        }
    }

    #[test]
    fn int8_and_int4_become_int8_without_rounding() {
        let data: Vec<f32> = (0..80).map(|i| (i as f32 * 0.7).sin()).collect();
        let cases = [
            (Format::W8, Format::I8),
            (Format::I8, Format::W8),
            (Format::I4, Format::I8),
            (Format::I8, Format::I8A),
            (Format::I8A, Format::I8),
            (Format::I4, Format::I8A),
            (Format::F16, Format::F32),
        ];
        for (from, to) in cases {
            let values = Values::round_to_nearest(from, &data, 2);
            let same = values.exactly(to).unwrap();
            assert_eq!((same.format(), same.to_f32()), (to, values.to_f32()));
        }
        assert_eq!(
            Values::round_to_nearest(Format::F32, &data, 2).exactly(Format::I8),
            None
        );
    }

    #[test]
    fn int4_blocks_have_steps_of_their_own_and_stay_within_int8() {
        // A block of small numbers beside one of large ones, and a last block that is shorter.
        let row: Vec<f32> = (0..70)
            .map(|i| (i as f32 * 0.7).sin() * if i < 32 { 0.3 } else { 4.0 })
            .collect();
        let values = Values::round_to_nearest(Format::I4, &row, 1);
        let Values::I4 { multipliers, .. } = &values else {
            panic!("int4 asked for")
        };
        assert_eq!(multipliers.len(), 3);
        assert_eq!(multipliers[1], I4_MULTIPLIER_MAX);
        let step = |i: usize| f32::from(multipliers[i / I4_BLOCK]) * values.scales()[0];
        for (i, (a, b)) in row.iter().zip(&values.to_f32()).enumerate() {
            // The block's step is the nearest the multiplier can say: half a multiplier may be clipped at the top.
            assert!(
                (a - b).abs() <= step(i) * 0.5001 + 3.5 * values.scales()[0],
                "{a} became {b}"
            );
        }
        assert!(values.int8s().unwrap().iter().all(|q| *q > i8::MIN));
        assert_eq!(Values::round_to_nearest(Format::I4, &[0.0; 40], 1).to_f32(), [0.0; 40]);
    }
}
