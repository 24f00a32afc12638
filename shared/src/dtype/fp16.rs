//! f16: half the bytes, widened to f32 as it is read.

use super::{Format, FormatRow, Inputs, Numbers, Offered, Storage};
use half::f16;

pub(super) const ROW: FormatRow = FormatRow {
    name: "f16",
    alias: "fp16",
    also: &["float16", "half"],
    help: None,
    since: 1,
    storage: Storage::F16,
    inputs: Inputs::Float,
    numbers: Format::F16,
    levels: None,
    round: |data, _| Numbers::F16(data.iter().map(|&x| f16::from_f32(x)).collect()),
    offered: Offered::Always,
};
