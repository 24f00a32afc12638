//! One module a subcommand: its arguments, its run and what it prints. The work lies in the modules they name.

pub(crate) mod args;
pub(crate) mod ask;
pub(crate) mod defaults;
pub(crate) mod deploy;
pub(crate) mod doctor;
pub(crate) mod emulate;
pub(crate) mod examples;
pub(crate) mod export;
pub(crate) mod graft;
pub(crate) mod inspect;
pub(crate) mod install;
pub(crate) mod manual;
pub(crate) mod outcome;
pub(crate) mod package;
pub(crate) mod report;
pub(crate) mod run;
pub mod shrink;
pub(crate) mod slim;
pub(crate) mod targets;
pub(crate) mod undeploy;
pub(crate) mod verify;
