//! thimble's host side: reads ALBERT checkpoints, solves the byte budget with measured loss, writes the one file that is
//! ONNX and memory image, and judges what it made. The program `thimble` is a thin wrapper over [`cli::main`].

pub mod answer;
pub mod board;
pub mod budget;
pub mod cli;
pub mod cmd;
pub mod cpio;
pub mod deploy;
pub mod equalise;
pub mod evaluate;
pub mod explain;
pub mod inputs;
pub mod loss;
pub mod memo;
pub mod need;
pub mod package;
pub mod page;
pub mod quantise;
pub mod reports;
pub mod solve;
pub mod source;
pub mod store;
pub mod subject;
pub mod text;
pub mod tokenise;
pub mod virtual_board;
