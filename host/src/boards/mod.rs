//! Boards: what is known of one, programs and files for it, the ways to put them there, and what it reported.

pub(crate) mod cost_model;
pub mod cpio;
pub mod device_binary;
pub(crate) mod emulator;
pub mod package;
pub mod profile_file;
pub mod profiles;
pub(crate) mod report_page;
pub mod reports;
pub mod sd_image;
pub mod ssh;
pub mod system;
pub mod tools;
