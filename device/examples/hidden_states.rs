//! Writes what the engine holds between its layers, for judges that take the network apart: tensor `0` is the embedding's
//! output and tensor `i` what layer `i` made of tensor `i - 1`, f32 `[rows, seq, hidden]`, padding cut off.
//!
//!     cargo run --release -p thimble-device --example hidden_states -- MODEL.onnx IN.safetensors OUT.safetensors

use std::path::Path;
use std::process::ExitCode;
use thimble_device::engine::tensors::{self, TensorFile};
use thimble_device::image::mmap::ModelMap;
use thimble_device::{Engine, EngineOptions, Image, Input};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, output] = arguments.as_slice() else {
        eprintln!("usage: hidden_states MODEL.onnx IN.safetensors OUT.safetensors");
        return ExitCode::from(2);
    };
    match run(Path::new(model), Path::new(input), Path::new(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hidden_states: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(model: &Path, input: &Path, output: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let map = ModelMap::open(model, false)?;
    let engine = Engine::new(Image::new(map), EngineOptions::default())?;
    let file = TensorFile::read(input)?;
    let ids = file.integers("input_ids")?.ok_or("no tensor input_ids")?;
    let input = Input {
        shape: ids.shape,
        input_ids: ids.data,
        attention_mask: file.integers("attention_mask")?.map(|t| t.data),
        token_type_ids: file.integers("token_type_ids")?.map(|t| t.data),
    };
    let states = engine.hidden_states(&input)?;
    let names: Vec<String> = (0..states.len()).map(|i| i.to_string()).collect();
    let named = names
        .iter()
        .zip(&states)
        .map(|(name, state)| (name.as_str(), state.shape.as_slice(), state.data.as_slice()));
    Ok(tensors::write(output, named)?)
}
