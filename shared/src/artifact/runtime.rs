//! What runs a file, and what follows from it: the order its weights lie in, and the operators its nodes may use.

use crate::dtype::{Format, InputRange};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a file is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// `thimble-device`, which maps the file: weights lie in panels.
    #[default]
    Board,
    /// ONNX Runtime: weights lie row by row, and nodes may be those of `com.microsoft`.
    OnnxRuntime,
    /// Any reader of ONNX: weights lie row by row, and all nodes are standard.
    Onnx,
}

/// In which order the numbers of a linear weight lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Panels of eight output channels, as kernels of the device read them.
    Panels,
    /// `[in, out]`, as MatMul reads it; int4 `[out, block, 16]`, as MatMulNBits reads it.
    Rows,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Runtime; 3] = [Runtime::Board, Runtime::OnnxRuntime, Runtime::Onnx];

    /// The name in files and in options.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Board => "board",
            Runtime::OnnxRuntime => "onnxruntime",
            Runtime::Onnx => "onnx",
        }
    }

    /// The order of linear weights.
    pub fn order(self) -> Order {
        match self {
            Runtime::Board => Order::Panels,
            Runtime::OnnxRuntime | Runtime::Onnx => Order::Rows,
        }
    }

    /// Whether nodes of `com.microsoft` may be used.
    pub fn is_onnxruntime(self) -> bool {
        self == Runtime::OnnxRuntime
    }

    /// The format with the same numbers whose arithmetic this runtime is fast at. ONNX Runtime fuses int8 maps whose input has one
    /// range, and multiplies int4 weights in f32.
    pub fn suited(self, format: Format) -> Format {
        let per_token = match format.input_range() {
            Some(InputRange::Symmetric | InputRange::Centered) => true,
            Some(InputRange::Tensor) | None => false,
        };
        if self.order() == Order::Panels || !per_token {
            return format;
        }
        let same = || Format::ALL.into_iter().filter(|f| f.shares_numbers(format));
        let tensor = same().find(|f| f.input_range() == Some(InputRange::Tensor));
        tensor
            .or_else(|| same().find(|f| !f.quantizes_input()))
            .unwrap_or(format)
    }

    /// The version of the `thimble.graph` text that brought the newest of them.
    pub const SINCE: u32 = 3;

    /// The version of the `thimble.graph` text that brought it.
    pub fn since(self) -> u32 {
        match self {
            Runtime::Board => 1,
            Runtime::OnnxRuntime | Runtime::Onnx => Runtime::SINCE,
        }
    }

    /// Whether it is the one that files need not name.
    pub(crate) fn is_board(&self) -> bool {
        *self == Runtime::Board
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Runtime {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Runtime::ALL
            .into_iter()
            .find(|runtime| runtime.name() == s)
            .ok_or_else(|| format!("unknown runtime '{s}'; known are board, onnxruntime and onnx"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_and_int4_become_what_onnx_runtime_fuses() {
        for (format, want) in [
            (Format::F32, Format::F32),
            (Format::F16, Format::F16),
            (Format::W8, Format::W8),
            (Format::I8, Format::I8T),
            (Format::I8A, Format::I8T),
            (Format::I8T, Format::I8T),
            (Format::I4, Format::W4),
            (Format::W4, Format::W4),
        ] {
            assert_eq!(Runtime::OnnxRuntime.suited(format), want);
            assert_eq!(Runtime::Board.suited(format), format);
        }
    }

    #[test]
    fn a_runtime_goes_by_its_name() {
        for runtime in Runtime::ALL {
            assert_eq!(runtime.name().parse(), Ok(runtime));
            assert_eq!(serde_json::to_value(runtime).unwrap(), runtime.name());
        }
        assert!("tflite".parse::<Runtime>().is_err());
    }
}
