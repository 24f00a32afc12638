//! The systemd units, the same for packages, card images and what deploy leaves: a socket with a service that answers at it, and
//! one that measures a model at boot. In: paths, names and limits; out: text.

/// What the service is started with.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    /// Absolute path of the device program.
    pub program: &'a str,
    /// Absolute path of the model.
    pub model: &'a str,
    /// SHA-256 that the model must have.
    pub sha256: &'a str,
    /// `MemoryMax=`, bytes.
    pub memory: Option<u64>,
    /// Whether the system's manager starts it, or a user's own.
    pub scope: Scope,
}

/// Whose systemd has the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The system's: every user may ask.
    System,
    /// A user's: nobody else may.
    User,
}

impl Scope {
    /// Where the server listens, as a socket unit names it.
    pub fn listens(self) -> &'static str {
        match self {
            Scope::System => "/run/thimble.sock",
            Scope::User => "%t/thimble.sock",
        }
    }
}

/// What only the system's manager can do, or does without asking the kernel for namespaces.
const SYSTEM_ONLY: &str = "DynamicUser=yes\n\
    CapabilityBoundingSet=\n\
    ProtectSystem=strict\n\
    ProtectHome=yes\n\
    PrivateTmp=yes\n\
    PrivateDevices=yes\n\
    PrivateNetwork=yes\n\
    ProtectClock=yes\n\
    ProtectControlGroups=yes\n\
    ProtectHostname=yes\n\
    ProtectKernelLogs=yes\n\
    ProtectKernelModules=yes\n\
    ProtectKernelTunables=yes\n\
    ProtectProc=invisible\n\
    RestrictNamespaces=yes\n";

/// What any manager can do.
const HARDENING: &str = "UMask=0077\n\
    NoNewPrivileges=yes\n\
    LockPersonality=yes\n\
    MemoryDenyWriteExecute=yes\n\
    RestrictAddressFamilies=AF_UNIX\n\
    RestrictRealtime=yes\n\
    RestrictSUIDSGID=yes\n\
    SystemCallArchitectures=native\n\
    SystemCallFilter=@system-service\n\
    SystemCallFilter=~@privileged\n\
    SystemCallErrorNumber=EPERM\n";

/// The socket: systemd keeps it while servers come and go, so a request waits for the next server instead of being refused.
pub fn socket(scope: Scope) -> String {
    let mode = match scope {
        Scope::System => "0666",
        Scope::User => "0600",
    };
    format!(
        "[Unit]\n\
         Description=Socket of the thimble server\n\
         \n\
         [Socket]\n\
         ListenStream={}\n\
         # Who may ask. For one group alone: systemctl edit, SocketMode=0660 and SocketGroup=.\n\
         SocketMode={mode}\n\
         RemoveOnStop=yes\n\
         \n\
         [Install]\n\
         WantedBy=sockets.target\n",
        scope.listens()
    )
}

/// The service that answers at the socket. It is started with the system, so that the first request finds the model loaded.
pub fn service(of: &Service) -> String {
    let memory = of.memory.map_or(String::new(), |bytes| format!("MemoryMax={bytes}\n"));
    let (only, wanted) = match of.scope {
        Scope::System => (SYSTEM_ONLY, "multi-user.target"),
        Scope::User => ("", "default.target"),
    };
    let name = of.model.rsplit('/').next().unwrap_or_default();
    format!(
        "[Unit]\n\
         Description=Answer requests with the thimble model {name}\n\
         Requires=thimble.socket\n\
         After=thimble.socket\n\
         # A model that cannot be served is given up after a while; systemctl reset-failed begins anew.\n\
         StartLimitIntervalSec=300\n\
         StartLimitBurst=30\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={} serve {} --sha256 {}\n\
         Restart=always\n\
         RestartSec=1\n\
         TimeoutStartSec=300\n\
         {memory}{only}{HARDENING}\
         \n\
         [Install]\n\
         WantedBy={wanted}\n\
         Also=thimble.socket\n",
        of.program, of.model, of.sha256
    )
}

/// The unit that measures the model at boot and leaves the report for whoever collects it. `program` and `model` are absolute paths;
/// `bench` are the device program's options, plain words; `user` runs it, or a user made up for the unit.
pub fn check(program: &str, model: &str, bench: &[String], max_ram: Option<u64>, user: Option<&str>) -> String {
    let name = model.rsplit('/').next().unwrap_or_default();
    let memory = max_ram.map_or(String::new(), |bytes| format!("MemoryMax={bytes}\n"));
    let bench: String = bench.iter().map(|word| format!(" {word}")).collect();
    let user = match user {
        Some(user) => format!("User={user}\n"),
        None => "DynamicUser=yes\n".into(),
    };
    // A home directory holds what deploy sends; the package's files lie outside of homes.
    let home = if model.starts_with("/usr/") { "yes" } else { "read-only" };
    format!(
        "[Unit]\n\
         Description=Measure the thimble model {name} on this board\n\
         After=multi-user.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         # The last report stays until there is a new one. 1: a limit does not hold, and the report says which.\n\
         ExecStart=/bin/sh -c 'cd \"$STATE_DIRECTORY\" && {{ \"{program}\" bench \"{model}\" --json{bench} > report.part; rc=$?; }} && [ $rc -le 1 ] && mv report.part report.json; exit $rc'\n\
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
        let unit = check("/usr/bin/p", "/usr/share/thimble/m.onnx", &bench, Some(1 << 25), None);
        assert!(unit.contains("MemoryMax=33554432\n") && unit.contains("--json --seq 8 --max-ram 33554432 >"));
        assert!(unit.contains("model m.onnx on") && unit.contains("ProtectHome=yes"));
        let kept = check("/home/pi/p", "/home/pi/m.onnx", &[], None, Some("pi"));
        assert!(!kept.contains("MemoryMax") && kept.contains("ProtectHome=read-only") && kept.contains("User=pi\n"));
    }

    #[test]
    fn a_users_service_asks_for_nothing_that_only_root_can_do() {
        let of = |scope, memory| Service {
            program: "/x/thimble-device",
            model: "/x/m.onnx",
            sha256: "ab",
            memory,
            scope,
        };
        let system = service(&of(Scope::System, Some(1 << 25)));
        let user = service(&of(Scope::User, None));
        assert!(system.contains("DynamicUser=yes") && system.contains("MemoryMax=33554432\n"));
        assert!(
            !user.contains("DynamicUser") && !user.contains("MemoryMax") && user.contains("WantedBy=default.target")
        );
        for unit in [&system, &user] {
            assert!(unit.contains("ExecStart=/x/thimble-device serve /x/m.onnx --sha256 ab\n"));
            assert!(unit.contains("Also=thimble.socket") && unit.contains("NoNewPrivileges=yes"));
        }
        assert!(socket(Scope::System).contains("ListenStream=/run/thimble.sock\n"));
        assert!(socket(Scope::User).contains("SocketMode=0600\n"));
    }
}
