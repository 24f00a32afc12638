//! i8: symmetric int8 with one scale per row, multiplied by inputs that are quantized from minus to plus their largest magnitude.

use super::{Format, FormatRow, I8_MAX, InputRange, Inputs, Levels, Numbers, Offered, Storage, absmax};

pub(super) const ROW: FormatRow = FormatRow {
    name: "i8",
    alias: "int8",
    also: &[],
    help: Some("int8 weights and activations"),
    since: 1,
    storage: Storage::I8,
    inputs: Inputs::Int8(InputRange::Symmetric),
    numbers: Format::I8,
    levels: Some(LEVELS),
    round,
    offered: Offered::Always,
};

const LEVELS: Levels = Levels {
    least: -I8_MAX as i8,
    most: I8_MAX as i8,
};

/// A row's scale maps its largest magnitude to the greatest level.
fn round(data: &[f32], cols: usize) -> Numbers {
    let scales = data
        .chunks(cols)
        .map(|row| absmax(row) / f32::from(LEVELS.most))
        .collect();
    Numbers::rows(data, scales, LEVELS)
}
