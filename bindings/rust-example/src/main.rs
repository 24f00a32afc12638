//! Asks a classifier for the label of each text.

use std::path::Path;
use std::process::ExitCode;
use thimble_device::session::SessionOptions;
use thimble_device::{Request, Responder};

fn run(model: &str, texts: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let model = Responder::open(Path::new(model), &SessionOptions::default(), None)?;
    let replies = model.answers(texts.iter().map(Request::text))?;
    for (reply, text) in replies.iter().zip(texts) {
        println!("{}\t{:.3}\t{text}", reply.label().unwrap_or("-"), reply.score().unwrap_or(0.0));
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, texts @ ..] = arguments.as_slice() else {
        eprintln!("usage: ask MODEL.onnx TEXT...");
        return ExitCode::FAILURE;
    };
    match run(model, texts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
