//! The number formats a weight can be stored in. A format is a file with one row, and the table below has all rows: the rest of
//! the program asks the row, or the kind of [`Storage`] that the row names, and never lists formats.

mod fp16;
mod fp32;
mod int4;
mod int8;
mod int8a;
mod int8t;
mod storage;
mod values;
mod w4;
mod w8;

pub use storage::{I4_BLOCK, I4_MULTIPLIER_MAX, Levels, Numbers, Part, Storage, absmax};
pub use values::Values;

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! formats {
    ($($(#[doc = $doc:literal])* $format:ident = $file:ident,)*) => {
        /// How the numbers of one weight are stored, and what arithmetic its use states. The order is that of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Format {
            $($(#[doc = $doc])* $format,)*
        }

        impl Format {
            /// All of them.
            pub const ALL: [Format; [$(Format::$format),*].len()] = [$(Format::$format),*];

            /// What is to be said of it.
            pub const fn row(self) -> &'static FormatRow {
                match self {
                    $(Format::$format => &$file::ROW,)*
                }
            }
        }
    };
}

formats! {
    /// IEEE binary32.
    F32 = fp32,
    /// IEEE binary16 storage, widened to f32 before any arithmetic.
    F16 = fp16,
    /// Symmetric int8 with one f32 scale per output channel (per row of a table), widened to f32 before any arithmetic.
    W8 = w8,
    /// The numbers of `W8`, but a linear weight in this format also quantizes its input per token at run time and
    /// multiplies in int8 × int8 → int32.
    I8 = int8,
    /// The numbers of `I8`, but a linear weight in this format quantizes its input per token around the middle of the
    /// token's range, so that one-sided inputs use all 255 steps; the middle times the row sums is added back in f32.
    I8A = int8a,
    /// The numbers of `I8`, but a linear weight in this format quantizes its input over the whole tensor to uint8 with a zero
    /// point, as ONNX's DynamicQuantizeLinear does it.
    I8T = int8t,
    /// int4 in blocks of 32 inputs (columns). A block has an integer multiplier and a row an f32 scale, so that number ×
    /// multiplier is an int8 and everything after it is the arithmetic of `I8`.
    I4 = int4,
    /// The numbers of `I4`, widened to f32 before any arithmetic.
    W4 = w4,
}

/// All there is to say of a format.
pub struct FormatRow {
    /// The name in files and in options: its variant in lower case.
    pub name: &'static str,
    /// The other name that options take; `export --precision` lists this one.
    pub alias: &'static str,
    /// What other tools call it; options take these too, and nothing prints them.
    pub also: &'static [&'static str],
    /// What `--help` says of it.
    pub help: Option<&'static str>,
    /// The version of the `thimble.graph` text that brought the format.
    pub since: u32,
    /// What its numbers are in a file and in memory.
    pub storage: Storage,
    /// How a linear weight takes its input.
    pub inputs: Inputs,
    /// The format whose numbers these are: formats that differ in the arithmetic alone are rounded once, and a table is the same
    /// in all of them.
    pub numbers: Format,
    /// The integers it uses; none in floating point.
    pub levels: Option<Levels>,
    /// Rounds rows of so many columns to nearest.
    pub round: fn(&[f32], usize) -> Numbers,
    /// When a search offers it unasked.
    pub offered: Offered,
}

/// How a linear weight takes its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// As it is, in f32.
    Float,
    /// As int8, quantized over this range.
    Int8(InputRange),
}

/// Which range of values the steps of an int8 input cover: a token's own, or that of all tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputRange {
    /// From minus to plus the largest magnitude.
    #[default]
    Symmetric,
    /// From the least to the greatest value.
    Centered,
    /// From the least to the greatest value of the whole tensor, 0 among them: uint8 with a zero point, by the formulas of ONNX's
    /// DynamicQuantizeLinear.
    Tensor,
}

impl InputRange {
    /// All of them.
    pub const ALL: [InputRange; 3] = [InputRange::Symmetric, InputRange::Centered, InputRange::Tensor];

    /// Whether a number is taken off every value before it is quantized, so that products need the rows' sums.
    pub fn is_moved(self) -> bool {
        match self {
            InputRange::Symmetric => false,
            InputRange::Centered | InputRange::Tensor => true,
        }
    }
}

/// When a search offers a format that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Always.
    Always,
    /// Where loss matters more than speed.
    ForLoss,
    /// Only when it is named.
    Never,
}

/// The version of the `thimble.graph` text that brought the newest format.
pub const SINCE: u32 = {
    let (mut newest, mut at) = (0, 0);
    while at < Format::ALL.len() {
        let since = Format::ALL[at].row().since;
        newest = if since > newest { since } else { newest };
        at += 1;
    }
    newest
};

impl Format {
    /// The name in files and in options.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The version of the `thimble.graph` text that brought the format.
    pub fn since(self) -> u32 {
        self.row().since
    }

    /// What its numbers are in a file and in memory.
    pub fn storage(self) -> Storage {
        self.row().storage
    }

    /// Bits of one number of the payload.
    pub fn bits(self) -> usize {
        self.storage().bits()
    }

    /// Whether a tensor of f32 scales, one per row, stands beside the payload.
    pub fn has_scales(self) -> bool {
        self.storage().has(Part::Scales)
    }

    /// Whether the two differ in the arithmetic alone.
    pub fn shares_numbers(self, other: Format) -> bool {
        self.row().numbers == other.row().numbers
    }

    /// How a linear weight of this format quantizes its input to int8 per token; None where it does not.
    pub fn input_range(self) -> Option<InputRange> {
        match self.row().inputs {
            Inputs::Float => None,
            Inputs::Int8(range) => Some(range),
        }
    }

    /// Whether a linear weight of this format quantizes its input to int8 per token.
    pub fn quantizes_input(self) -> bool {
        self.input_range().is_some()
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let named = |f: &Format| [f.name(), f.row().alias].contains(&s) || f.row().also.contains(&s);
        Format::ALL.into_iter().find(named).ok_or_else(|| {
            let known: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
            format!("unknown number format '{s}'; known are {}", known.join(", "))
        })
    }
}

// What the layout of the file, the ONNX nodes and the engine rely on.
const _: () = {
    let mut i = 0;
    while i < Format::ALL.len() {
        let row = Format::ALL[i].row();
        let integers = matches!(row.storage, Storage::I8 | Storage::I4);
        let in_integers = matches!(row.inputs, Inputs::Int8(_));
        assert!(
            row.levels.is_some() == integers,
            "integers have levels, floating point has none"
        );
        assert!(
            integers || !in_integers,
            "a product in integers has integers on both sides"
        );
        assert!(
            row.numbers.row().storage as u8 == row.storage as u8,
            "the same numbers are stored alike"
        );
        i += 1;
    }
};

/// The largest magnitude an int8 weight or activation takes. -128 is never used: two products of it overflow the i16 step
/// of the SMULL + SMLAL kernel on CPUs without dot-product instructions.
pub const I8_MAX: f32 = 127.0;

/// Most inputs of a linear weight that is multiplied in int8: 2¹⁶ products of 127 × 127 still fit an int32 sum.
pub const I8_INPUTS: usize = 1 << 16;

/// The least value the per-token maximum is raised to before it divides, so an all-zero token quantizes to zeros.
pub const ACTIVATION_FLOOR: f32 = 1e-30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_goes_by_its_names_everywhere() {
        for format in Format::ALL {
            let row = format.row();
            assert_eq!(format!("{format:?}").to_lowercase(), row.name);
            assert_eq!(
                (row.name.parse(), row.alias.parse(), format.to_string().as_str()),
                (Ok(format), Ok(format), row.name)
            );
        }
        assert_eq!(
            "int5".parse::<Format>().unwrap_err(),
            "unknown number format 'int5'; known are f32, f16, w8, i8, i8a, i8t, i4, w4"
        );
    }
}
