//! i4: int4 in blocks of columns, whose steps are whole multiples of their row's scale; number × multiplier is an int8, and what
//! follows is the arithmetic of i8.

use super::{
    Format, FormatRow, I4_BLOCK, I4_MULTIPLIER_MAX, InputRange, Inputs, Levels, Numbers, Offered, Storage, absmax,
};

pub(super) const ROW: FormatRow = FormatRow {
    name: "i4",
    alias: "int4",
    also: &[],
    help: Some("int4 weights in blocks of 32, int8 activations"),
    since: 1,
    storage: Storage::I4,
    inputs: Inputs::Int8(InputRange::Symmetric),
    numbers: Format::I4,
    levels: Some(LEVELS),
    round,
    offered: Offered::Always,
};

const LEVELS: Levels = Levels { least: -8, most: 7 };

/// Each block takes its step from its largest magnitude, rounded to a multiple of the row's scale.
fn round(data: &[f32], cols: usize) -> Numbers {
    let (mut scales, mut multipliers) = (vec![], vec![]);
    for row in data.chunks(cols) {
        let (scale, row) = steps(row);
        scales.push(scale);
        multipliers.extend(row);
    }
    Numbers::blocks(data, multipliers, scales, LEVELS)
}

/// The scale of a row and the multiplier of each of its blocks, from the largest magnitudes.
fn steps(row: &[f32]) -> (f32, Vec<u8>) {
    let step = |block: &[f32]| absmax(block) / f32::from(LEVELS.most);
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
