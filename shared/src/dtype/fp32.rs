//! f32: numbers as they are.

use super::{Format, FormatRow, Inputs, Numbers, Offered, Storage};

pub(super) const ROW: FormatRow = FormatRow {
    name: "f32",
    alias: "fp32",
    also: &["float32", "float"],
    help: None,
    since: 1,
    storage: Storage::F32,
    inputs: Inputs::Float,
    numbers: Format::F32,
    levels: None,
    round: |data, _| Numbers::F32(data.to_vec()),
    offered: Offered::Always,
};
