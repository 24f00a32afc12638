//! The systemd unit that measures a model at boot: its text, the same for packages, card images and what deploy leaves.

/// The unit that measures the model at boot and leaves the report for whoever collects it. `dir` holds program and model;
/// `bench` are the device program's options, plain words; `user` runs it, or a user made up for the unit.
pub fn unit(dir: &str, model: &str, bench: &[String], max_ram: Option<u64>, user: Option<&str>) -> String {
    let memory = max_ram.map_or(String::new(), |bytes| format!("MemoryMax={bytes}\n"));
    let bench: String = bench.iter().map(|word| format!(" {word}")).collect();
    let user = match user {
        Some(user) => format!("User={user}\n"),
        None => "DynamicUser=yes\n".into(),
    };
    // A home directory holds what deploy sends; the package's files lie outside of homes.
    let home = if dir.starts_with("/usr/") { "yes" } else { "read-only" };
    format!(
        "[Unit]\n\
         Description=Measure the thimble model {model} on this board\n\
         After=multi-user.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # The last report stays until there is a new one. 1: a limit does not hold, and the report says which.\n\
         ExecStart=/bin/sh -c 'cd \"$STATE_DIRECTORY\" && {{ \"{dir}/thimble-device\" bench \"{dir}/{model}\" --json{bench} > report.part; rc=$?; }} && [ $rc -le 1 ] && mv report.part report.json; exit $rc'\n\
         StateDirectory=thimble\n\
         {user}{memory}\
         ProtectSystem=strict\n\
         ProtectHome={home}\n\
         PrivateTmp=yes\n\
         PrivateNetwork=yes\n\
         NoNewPrivileges=yes\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_holds_the_limit_twice() {
        let bench = ["--seq", "8", "--max-ram", "33554432"].map(String::from);
        let unit = unit("/usr/lib/thimble", "m.onnx", &bench, Some(1 << 25), None);
        assert!(unit.contains("MemoryMax=33554432\n") && unit.contains("--json --seq 8 --max-ram 33554432 >"));
        assert!(!super::unit("/x", "m.onnx", &[], None, Some("pi")).contains("MemoryMax"));
    }
}
