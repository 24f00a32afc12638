//! w4: the numbers of i4, widened to f32 before any arithmetic.

use super::{Format, FormatRow, Inputs, Offered, int4};

pub(super) const ROW: FormatRow = FormatRow {
    name: "w4",
    alias: "w4",
    help: Some("int4 weights in blocks of 32, f32 arithmetic: ONNX Runtime's MatMulNBits"),
    since: 3,
    inputs: Inputs::Float,
    numbers: Format::I4,
    offered: Offered::Never,
    ..int4::ROW
};
