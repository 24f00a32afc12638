//! One module per subcommand: parse → call → print. The work lies in the modules they name.

pub mod export;
pub mod inspect;
pub mod run;
pub mod shrink;
pub mod slim;
pub mod targets;
pub mod verify;
