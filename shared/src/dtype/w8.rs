//! w8: the numbers of i8, multiplied in f32.

use super::{Format, FormatRow, Inputs, Offered, int8};

pub(super) const ROW: FormatRow = FormatRow {
    name: "w8",
    alias: "w8",
    also: &["int8-weights"],
    help: Some("int8 weights, f32 arithmetic"),
    inputs: Inputs::Float,
    numbers: Format::I8,
    offered: Offered::ForLoss,
    ..int8::ROW
};
