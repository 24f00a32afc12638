//! One module a subcommand: its arguments, its run and what it prints. The work lies in the modules they name.

pub mod args;
pub mod defaults;
pub mod deploy;
pub mod doctor;
pub mod emulate;
pub mod examples;
pub mod export;
pub mod inspect;
pub mod install;
pub mod manual;
pub mod outcome;
pub mod package;
pub mod report;
pub mod run;
pub mod shrink;
pub mod slim;
pub mod targets;
pub mod verify;
