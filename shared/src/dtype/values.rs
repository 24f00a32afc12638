//! The numbers of one weight with their format. Values go in as `f32` in logical row-major order (`[out, in]` or
//! `[rows, cols]`) and come out in it; the order of panels is the artifact's.

use super::{Format, Numbers, Storage};
use half::f16;
use std::borrow::Cow;
use std::ops::Range;

/// The numbers of one weight in one format, in logical row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    format: Format,
    numbers: Numbers,
}

impl Values {
    /// Stored numbers as those of a format.
    ///
    /// # Panics
    ///
    /// Where the format stores another kind of numbers.
    pub fn new(format: Format, numbers: Numbers) -> Values {
        assert_eq!(format.storage(), numbers.storage(), "{format}");
        Values { format, numbers }
    }

    /// Numbers as they are.
    pub fn f32(numbers: Vec<f32>) -> Values {
        Values::new(Format::F32, Numbers::F32(numbers))
    }

    /// Numbers of half precision as they are.
    pub fn f16(numbers: Vec<f16>) -> Values {
        Values::new(Format::F16, Numbers::F16(numbers))
    }

    /// The format these numbers are in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The numbers, whatever arithmetic the format states.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The numbers, where they are stored as f32.
    pub fn f32s(&self) -> Option<&[f32]> {
        match &self.numbers {
            Numbers::F32(v) => Some(v),
            Numbers::F16(_) | Numbers::I8 { .. } | Numbers::I4 { .. } => None,
        }
    }

    /// The numbers to change, where they are stored as f32.
    pub fn f32s_mut(&mut self) -> Option<&mut Vec<f32>> {
        match &mut self.numbers {
            Numbers::F32(v) => Some(v),
            Numbers::F16(_) | Numbers::I8 { .. } | Numbers::I4 { .. } => None,
        }
    }

    /// The numbers, where they are stored as f16.
    pub fn f16s(&self) -> Option<&[f16]> {
        match &self.numbers {
            Numbers::F16(v) => Some(v),
            Numbers::F32(_) | Numbers::I8 { .. } | Numbers::I4 { .. } => None,
        }
    }

    /// Numbers of the weight; scales and multipliers are not counted.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One scale per row; empty in formats without.
    pub fn scales(&self) -> &[f32] {
        self.numbers.scales()
    }

    /// Rounds `data` to nearest in `format`.
    pub fn round_to_nearest(format: Format, data: &[f32], rows: usize) -> Values {
        let cols = data.len().checked_div(rows).unwrap_or(0).max(1);
        Values::new(format, (format.row().round)(data, cols))
    }

    /// Rounds `data` to nearest with given steps: one scale a row and, in formats that have them, one multiplier a block. None in
    /// formats without steps.
    pub fn with_steps(format: Format, data: &[f32], multipliers: Vec<u8>, scales: Vec<f32>) -> Option<Values> {
        let levels = format.row().levels?;
        let numbers = match format.storage() {
            Storage::F32 | Storage::F16 => return None,
            Storage::I8 => Numbers::rows(data, scales, levels),
            Storage::I4 => Numbers::blocks(data, multipliers, scales, levels),
        };
        Some(Values::new(format, numbers))
    }

    /// The int8 numbers that `scale[row]` belongs to: for int4, each number times its block's multiplier. None in formats
    /// without scales.
    pub fn int8s(&self) -> Option<Vec<i8>> {
        self.numbers.int8s()
    }

    /// The same numbers in a format that holds them as they are: one with the same numbers, f32, or int8 made of integers it
    /// has. None where something would have to be rounded.
    pub fn exactly(&self, format: Format) -> Option<Values> {
        if self.format.shares_numbers(format) {
            return Some(Values::new(format, self.numbers.clone()));
        }
        if format == Format::F32 {
            return Some(Values::f32(self.to_f32()));
        }
        match format.storage() {
            Storage::F32 | Storage::F16 | Storage::I4 => None,
            Storage::I8 => {
                let (q, levels) = (self.int8s()?, format.row().levels?);
                let scales = self.scales().to_vec();
                let held = levels.first_outside(&q).is_none();
                held.then(|| Values::new(format, Numbers::I8 { q, scales }))
            }
        }
    }

    /// The numbers as f32, borrowed where they are.
    pub fn as_f32(&self) -> Cow<'_, [f32]> {
        match self.f32s() {
            Some(v) => Cow::Borrowed(v),
            None => Cow::Owned(self.to_f32()),
        }
    }

    /// Back to f32: what the stored numbers stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        self.numbers.to_f32()
    }

    /// Some rows, each of `cols` numbers.
    pub(crate) fn some_rows(&self, rows: Range<usize>, cols: usize) -> Values {
        Values {
            format: self.format,
            numbers: self.numbers.some_rows(rows, cols),
        }
    }

    /// Makes room for `elements` numbers in all.
    pub(crate) fn reserve(&mut self, elements: usize) {
        self.numbers.reserve(elements);
    }

    /// Adds the rows of `more`, which is in the same format.
    pub(crate) fn append(&mut self, more: Values) {
        self.numbers.append(more.numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{I4_BLOCK, I4_MULTIPLIER_MAX};
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
        let levels = Format::I8.row().levels.unwrap();
        for (x, scale, want) in cases {
            assert_eq!(levels.nearest(x, scale), want, "{x} / {scale}");
        }
    }

    #[test]
    fn rounding_keeps_each_row_within_half_a_step() {
        let data = [0.5f32, -1.0, 0.25, 100.0, 3.0, -7.0];
        let int8 = |f: &Format| f.storage() == Storage::I8;
        for format in Format::ALL.into_iter().filter(int8) {
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
        let Numbers::I4 { multipliers, .. } = values.numbers() else {
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
