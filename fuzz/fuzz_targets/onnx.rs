//! Another tool's ONNX file: explained, made slim and, one file in eight, imported with its proof, which computes the file
//! itself and is slow; of those every other one with its weights dequantized.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::inspect::{explain, html};
use thimble::models::onnx_import::{self, ImportOptions};
use thimble::onnx::OnnxFile;
use thimble::onnx::slim::{SlimOptions, slim};
use thimble_fuzz::{Allowance, bounded, one_line, put};

const NAME: &str = "input.onnx";
/// What a node or an attribute of two bytes becomes, with everything known of it; and the proof's plan of a small model.
const ALLOWANCE: Allowance = Allowance {
    times: 256,
    bytes: 64 << 20,
};

fuzz_target!(|data: &[u8]| {
    let path = put(NAME, data);
    put("w.bin", &[9; 96]);
    bounded(data, ALLOWANCE, || {
        match explain(&path) {
            Ok(explanation) => {
                let page = html::page(&explanation, Some(1 << 20));
                assert!(page.ends_with("</html>"));
                let account = &explanation.account;
                assert_eq!(account.causes.values().sum::<u64>(), account.total());
            }
            Err(e) => one_line(e, NAME),
        }
        match OnnxFile::open(&path) {
            Ok(file) => {
                let short = SlimOptions {
                    short_names: true,
                    one_file: true,
                    ..SlimOptions::default()
                };
                for options in [SlimOptions::default(), short] {
                    match slim(&file, &options, "out.onnx.data") {
                        Ok(slimmed) => {
                            let bytes: usize = slimmed.model.pieces.iter().map(|p| p.len()).sum();
                            assert_eq!(bytes as u64, slimmed.model.len);
                        }
                        Err(e) => one_line(e, NAME),
                    }
                }
            }
            Err(e) => one_line(e, NAME),
        }
        if data.len().is_multiple_of(8) {
            let options = ImportOptions {
                dequantize: data.len().is_multiple_of(16),
                ..ImportOptions::default()
            };
            if let Err(e) = onnx_import::open_with(&path, &options) {
                one_line(e, NAME);
            }
        }
    });
});
