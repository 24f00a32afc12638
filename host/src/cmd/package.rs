//! `thimble package`: an arm64 Debian package that apt, Ansible or any other means can roll out to a fleet.

use crate::cli::{Outcome, PackageArgs};
use crate::package::{Control, deb, payload};
use crate::program::device_program;
use crate::store;
use crate::subject::{Subject, tokenizer_beside};
use crate::text::exact;
use anyhow::{Result, bail};

pub fn run(args: &PackageArgs) -> Result<Outcome> {
    if !matches!(Subject::open(&args.file)?, Subject::File(_)) {
        bail!(
            "{}: a board runs files of thimble's; make one with thimble export or shrink",
            args.file.display()
        );
    }
    let tokenizer = tokenizer_beside(&args.file);
    let named = args.payload.device_program.as_deref();
    store::refuse_inputs(&args.output, [args.file.as_path(), &tokenizer].into_iter().chain(named))?;
    let program = device_program(named)?;
    // Where nobody named one, it is only known now.
    store::refuse_inputs(&args.output, [program.as_path()])?;
    let payload = payload(&args.file, &program, args.payload.max_ram.map(|r| r.as_u64()))?;
    let bytes = deb(
        &payload,
        &Control {
            name: &args.name,
            version: &args.release,
            maintainer: &args.maintainer,
            description: &args.description,
        },
    )?;
    store::write_whole(&args.output, &bytes)?;
    let mut text = format!("{}  {}\n", args.output.display(), exact(bytes.len() as u64));
    for file in &payload.files {
        text += &format!("  /{}  {}\n", file.path, exact(file.bytes.len() as u64));
    }
    Ok(Outcome::yes(text))
}
