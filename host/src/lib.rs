//! thimble's host side: reads ALBERT checkpoints, solves the byte budget with measured loss, writes the one file that is
//! ONNX and memory image, and judges what it made. The program `thimble` is a thin wrapper over [`cli::main`].

pub mod answer;
pub mod board;
pub mod budget;
pub mod calibrate;
pub mod chart;
pub mod cli;
pub mod cmd;
pub mod equalise;
pub mod evaluate;
pub mod explain;
pub mod frontier;
pub mod import;
pub mod inputs;
pub mod levers;
pub mod loss;
pub mod memo;
pub mod meter;
pub mod onnx;
pub mod predict;
pub mod progress;
pub mod quantise;
pub mod rawjson;
pub mod refit;
pub mod search;
pub mod slim;
pub mod solve;
pub mod source;
pub mod store;
pub mod study;
pub mod subject;
pub mod text;
pub mod tokenise;
pub mod variant;
pub mod vocabulary;
