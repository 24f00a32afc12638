//! i8t: the numbers of i8, multiplied by inputs that are quantized over the whole tensor, as ONNX's DynamicQuantizeLinear does it.

use super::{Format, FormatRow, InputRange, Inputs, Offered, int8};

pub(super) const ROW: FormatRow = FormatRow {
    name: "i8t",
    alias: "int8t",
    help: Some("int8 weights and activations, one range for all tokens: what ONNX Runtime is fast at"),
    since: 3,
    inputs: Inputs::Int8(InputRange::Tensor),
    numbers: Format::I8,
    offered: Offered::Never,
    ..int8::ROW
};
