//! The number formats a weight can be stored in: name, size, range and rounding. Values go in as `f32` in logical row-major
//! order (`[out, in]` or `[rows, cols]`) and come out as [`Values`], still in logical order; the panel order is `panel`'s idea.

use half::f16;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the numbers of one weight are stored, and what arithmetic its use states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16 storage, widened to f32 before any arithmetic.
    F16,
    /// Symmetric int8 with one f32 scale per output channel (per row of a table). A linear weight in this format also
    /// quantises its input per token at run time and multiplies in int8 × int8 → int32.
    I8,
}

impl Format {
    pub const ALL: [Format; 3] = [Format::F32, Format::F16, Format::I8];

    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::I8 => "i8",
        }
    }

    /// Bytes of one element of the payload.
    pub fn element_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 => 2,
            Format::I8 => 1,
        }
    }

    /// Whether a tensor of f32 scales, one per row, stands beside the payload.
    pub fn has_scales(self) -> bool {
        self == Format::I8
    }
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
            "f32" | "fp32" => Ok(Format::F32),
            "f16" | "fp16" => Ok(Format::F16),
            "i8" | "int8" => Ok(Format::I8),
            _ => Err(format!("unknown number format '{s}'; known are f32, f16, i8")),
        }
    }
}

/// The largest magnitude an int8 weight or activation takes. -128 is never used: two products of it overflow the i16 step
/// of the SMULL + SMLAL kernel on CPUs without dot-product instructions.
pub const I8_MAX: f32 = 127.0;

/// The least value the per-token maximum is raised to before it divides, so an all-zero token quantises to zeros.
pub const ACTIVATION_FLOOR: f32 = 1e-30;

/// The numbers of one weight in one format, in logical row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// `scales.len()` rows; value = `q * scale[row]`.
    I8 {
        q: Vec<i8>,
        scales: Vec<f32>,
    },
}

impl Values {
    pub fn format(&self) -> Format {
        match self {
            Values::F32(_) => Format::F32,
            Values::F16(_) => Format::F16,
            Values::I8 { .. } => Format::I8,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::I8 { q, .. } => q.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rounds `data` to nearest in `format`; int8 takes each row's scale from its largest magnitude.
    pub fn round_to_nearest(format: Format, data: &[f32], rows: usize) -> Values {
        match format {
            Format::F32 => Values::F32(data.to_vec()),
            Format::F16 => Values::F16(data.iter().map(|&x| f16::from_f32(x)).collect()),
            Format::I8 => {
                let cols = data.len().checked_div(rows).unwrap_or(0);
                let scales: Vec<f32> = data.chunks(cols.max(1)).map(absmax_scale).collect();
                Values::int8(data, &scales)
            }
        }
    }

    /// int8 with the given scale per row; a zero scale stores zeros.
    pub fn int8(data: &[f32], scales: &[f32]) -> Values {
        let cols = data.len().checked_div(scales.len()).unwrap_or(0).max(1);
        let q = data
            .chunks(cols)
            .zip(scales)
            .flat_map(|(row, &scale)| row.iter().map(move |&x| quantise(x, scale)))
            .collect();
        Values::I8 {
            q,
            scales: scales.to_vec(),
        }
    }

    /// Back to f32: what the stored numbers stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Values::F32(v) => v.clone(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::I8 { q, scales } => {
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
    row.iter().fold(0f32, |m, x| m.max(x.abs())) / I8_MAX
}

/// Nearest int8 in [-127, 127], ties to even as ONNX's Round.
pub fn quantise(x: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        0
    } else {
        (x / scale).round_ties_even().clamp(-I8_MAX, I8_MAX) as i8
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
        let Values::I8 { q, scales } = Values::round_to_nearest(Format::I8, &data, 2) else {
            panic!("int8 asked for")
        };
        let back = Values::I8 {
            q,
            scales: scales.clone(),
        }
        .to_f32();
        for (i, (a, b)) in data.iter().zip(&back).enumerate() {
            assert!((a - b).abs() <= scales[i / 3] * 0.5001, "{a} became {b}");
        }
    }
}
