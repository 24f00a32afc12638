//! i8a: the numbers of i8, multiplied by inputs that are quantized around the middle of each token's range.

use super::{Format, FormatRow, InputRange, Inputs, Offered, int8};

pub(super) const ROW: FormatRow = FormatRow {
    name: "i8a",
    alias: "int8a",
    help: Some("int8 weights and activations; each token is centered on the middle of its range"),
    since: 2,
    inputs: Inputs::Int8(InputRange::Centered),
    numbers: Format::I8,
    offered: Offered::Always,
    ..int8::ROW
};
