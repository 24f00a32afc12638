//! The element types of ONNX: their numbers, names and sizes.

use thimble_shared::onnx::writer::DataType;

/// f32
pub const F32: i64 = DataType::F32.code();
/// u8
pub const U8: i64 = DataType::U8.code();
/// i32
pub const I32: i64 = DataType::I32.code();
/// i64
pub const I64: i64 = DataType::I64.code();
/// f16
pub const F16: i64 = DataType::F16.code();
/// Booleans, a byte each.
pub const BOOL: i64 = 9;
/// bf16
pub const BF16: i64 = 16;

/// ONNX's name of a `TensorProto.DataType`, shortened, and the bits of one element; 0 where elements have no fixed size.
const ELEMENTS: [(i64, &str, usize); 26] = [
    (F32, "f32", 32),
    (U8, "u8", 8),
    (3, "i8", 8),
    (4, "u16", 16),
    (5, "i16", 16),
    (I32, "i32", 32),
    (I64, "i64", 64),
    (8, "string", 0),
    (BOOL, "bool", 8),
    (F16, "f16", 16),
    (11, "f64", 64),
    (12, "u32", 32),
    (13, "u64", 64),
    (14, "complex64", 64),
    (15, "complex128", 128),
    (BF16, "bf16", 16),
    (17, "f8e4m3fn", 8),
    (18, "f8e4m3fnuz", 8),
    (19, "f8e5m2", 8),
    (20, "f8e5m2fnuz", 8),
    (21, "u4", 4),
    (22, "i4", 4),
    (23, "f4e2m1", 4),
    (24, "f8e8m0", 8),
    (25, "u2", 2),
    (26, "i2", 2),
];

/// Short name of a `TensorProto.DataType`, e.g. `f32` for 1; `other` where the number is not known.
pub fn element_type(code: i64) -> &'static str {
    ELEMENTS.iter().find(|e| e.0 == code).map_or("other", |e| e.1)
}

/// Bits of one element; none where they have no fixed size or the number is not known.
pub fn bits(code: i64) -> Option<usize> {
    let found = ELEMENTS.iter().find(|e| e.0 == code && e.2 > 0);
    found.map(|e| e.2)
}
