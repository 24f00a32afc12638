//! One module per subcommand: parse → call → print. The work lies in the modules they name.

pub mod deploy;
pub mod emulate;
pub mod export;
pub mod inspect;
pub mod install;
pub mod package;
pub mod report;
pub mod run;
pub mod shrink;
pub mod slim;
pub mod targets;
pub mod verify;
