//! The architectures that thimble-device is built for, with the names that compilers, kernels, Debian, ELF headers and scripts have
//! for each. In: a name, a header, or what a board answers; out: the architecture, or what the board is instead.

use std::fmt;

/// An architecture that thimble-device is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM from version 7 on; version 8 runs it beside 64 bits.
    Armv7,
}

/// All names of an architecture.
struct Names {
    name: &'static str,
    /// As people say it.
    words: &'static str,
    triple: &'static str,
    /// How other triples begin whose programs run there.
    triples: &'static [&'static str],
    /// Class and machine in an ELF header.
    elf: (u8, u16),
    debian: &'static str,
    /// Of the vector unit, in /proc/cpuinfo.
    vectors: &'static str,
    build: &'static str,
}

const AARCH64: Names = Names {
    name: "aarch64",
    words: "64-bit ARM",
    triple: "aarch64-unknown-linux-gnu",
    triples: &["aarch64-"],
    elf: (2, 183),
    debian: "arm64",
    vectors: "asimd",
    build: "scripts/cross-build",
};

const ARMV7: Names = Names {
    name: "armv7",
    words: "32-bit ARM",
    triple: "armv7-unknown-linux-gnueabihf",
    triples: &["armv7-", "thumbv7neon-"],
    elf: (1, 40),
    debian: "armhf",
    vectors: "neon",
    build: "scripts/cross-build --target armv7-unknown-linux-gnueabihf",
};

impl Architecture {
    /// Every one, the usual one first.
    pub const ALL: [Architecture; 2] = [Architecture::Aarch64, Architecture::Armv7];

    const fn names(self) -> &'static Names {
        match self {
            Architecture::Aarch64 => &AARCH64,
            Architecture::Armv7 => &ARMV7,
        }
    }

    /// What it is called here, and in names of programs: `aarch64`, `armv7`.
    pub const fn name(self) -> &'static str {
        self.names().name
    }

    /// What people call it: `64-bit ARM`, `32-bit ARM`.
    pub const fn words(self) -> &'static str {
        self.names().words
    }

    /// The triple that boards' programs are built for.
    pub const fn triple(self) -> &'static str {
        self.names().triple
    }

    /// Debian's name: `arm64`, `armhf`.
    pub const fn debian(self) -> &'static str {
        self.names().debian
    }

    /// The kernel's name of the vector unit: `asimd`, which every Armv8 board has, and `neon`, without which portable code runs.
    pub const fn vectors(self) -> &'static str {
        self.names().vectors
    }

    /// The command that builds thimble-device for it, in thimble's checkout.
    pub const fn build(self) -> &'static str {
        self.names().build
    }

    /// The architecture of a triple that a target file names, also of one with another libc.
    pub fn of_triple(triple: &str) -> Option<Architecture> {
        let begins = |one: &Architecture| one.names().triples.iter().any(|begin| triple.starts_with(begin));
        Architecture::ALL.into_iter().find(begins)
    }

    /// The architecture that a user names, by its name here, by Debian's or by its triple.
    pub fn of_name(name: &str) -> Option<Architecture> {
        Architecture::ALL
            .into_iter()
            .find(|one| [one.name(), one.debian(), one.triple()].contains(&name))
    }

    /// The architecture of an ELF program, by its first 20 bytes.
    ///
    /// # Errors
    /// What the program is for, where it is for none of these.
    pub fn of_program(head: &[u8]) -> Result<Architecture, String> {
        if head.len() < 20 || !head.starts_with(b"\x7fELF") {
            return Err("of an unknown kind (it is no ELF program)".into());
        }
        let (class, machine) = (head[4], u16::from_le_bytes([head[18], head[19]]));
        let little = head[5] == 1;
        let is = |one: &Architecture| little && one.names().elf == (class, machine);
        Architecture::ALL
            .into_iter()
            .find(is)
            .ok_or_else(|| match (little, machine) {
                (true, 62) => "x86-64".into(),
                (true, 3) => "32-bit x86".into(),
                (true, 243) => "RISC-V".into(),
                _ => format!("for ELF machine {machine}"),
            })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.words())
    }
}

/// What a board answers when it is asked what it runs; empty where it does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers<'a> {
    /// `uname -m`: the kernel's.
    pub machine: &'a str,
    /// `getconf LONG_BIT`: the C library's.
    pub bits: &'a str,
    /// `dpkg --print-architecture`: the packages'.
    pub debian: &'a str,
    /// The class in the ELF header of one of its programs, 1 or 2.
    pub class: &'a str,
}

/// What a board's system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct System {
    /// The kernel's: more than its own programs are may run.
    pub kernel: Architecture,
    /// That of its programs, which thimble's follow.
    pub programs: Architecture,
}

/// A board that runs none of the programs there are; what `uname -m` says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl System {
    /// Understands a board's answers. The kernel alone does not tell: Raspberry Pi OS of 32 bits starts a 64-bit kernel.
    ///
    /// # Errors
    /// Where the board is no ARM, or one before version 7.
    pub fn of(answers: &Answers) -> Result<System, Unsupported> {
        use Architecture::{Aarch64, Armv7};
        let programs = match (answers.bits, answers.debian, answers.class) {
            ("64", _, _) => Some(Aarch64),
            ("32", _, _) => Some(Armv7),
            (_, "arm64", _) => Some(Aarch64),
            (_, "armhf" | "armel", _) => Some(Armv7),
            (_, _, "2") => Some(Aarch64),
            (_, _, "1") => Some(Armv7),
            _ => None,
        };
        let of = |kernel, programs| Ok(System { kernel, programs });
        match (answers.machine, programs) {
            ("aarch64" | "arm64", programs) => of(Aarch64, programs.unwrap_or(Aarch64)),
            // A 64-bit kernel calls itself so too, to a shell that asked for 32 bits (setarch linux32).
            ("armv8l", Some(Aarch64)) => of(Aarch64, Aarch64),
            ("armv7l" | "armv8l", _) => of(Armv7, Armv7),
            (other, _) => Err(Unsupported(other.to_string())),
        }
    }

    /// Whether a program for `architecture` starts there.
    pub fn runs(self, architecture: Architecture) -> bool {
        architecture == self.programs || architecture == self.kernel
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Unsupported(machine) = self;
        let before = |version| machine.starts_with(version);
        let what = match machine.as_str() {
            "" => "of an unknown kind",
            machine => machine,
        };
        let why = match ["armv4", "armv5", "armv6"].into_iter().any(before) {
            true => ", an ARM before version 7 (as in Raspberry Pi 1 and Zero)",
            false => "",
        };
        write!(
            f,
            "{what}{why}; thimble-device is for {} and {}",
            Architecture::Aarch64,
            Architecture::Armv7
        )
    }
}

impl std::error::Error for Unsupported {}

#[cfg(test)]
mod tests {
    use super::*;
    use Architecture::{Aarch64, Armv7};

    #[test]
    fn names_lead_to_the_architecture_and_back() {
        for one in Architecture::ALL {
            assert_eq!(Architecture::of_triple(one.triple()), Some(one));
            for name in [one.name(), one.debian(), one.triple()] {
                assert_eq!(Architecture::of_name(name), Some(one));
            }
            assert!(one == Aarch64 || one.build().ends_with(one.triple()));
        }
        let cases = [
            ("aarch64-unknown-linux-musl", Some(Aarch64)),
            ("thumbv7neon-unknown-linux-gnueabihf", Some(Armv7)),
            ("arm-unknown-linux-gnueabihf", None),
            ("x86_64-unknown-linux-gnu", None),
            ("", None),
        ];
        for (triple, want) in cases {
            assert_eq!(Architecture::of_triple(triple), want, "{triple}");
        }
        assert_eq!(Architecture::of_name("amd64"), None);
    }

    #[test]
    fn a_program_tells_what_it_is_for() {
        let elf = |class: u8, order: u8, machine: u16| {
            let mut head = b"\x7fELF".to_vec();
            head.extend([class, order, 1]);
            head.resize(18, 0);
            head.extend(machine.to_le_bytes());
            head
        };
        let cases = [
            (elf(2, 1, 183), Ok(Aarch64)),
            (elf(1, 1, 40), Ok(Armv7)),
            (elf(2, 1, 62), Err("x86-64")),
            (elf(1, 1, 3), Err("32-bit x86")),
            // Programs of one width with the other's number, and of the other byte order.
            (elf(1, 1, 183), Err("machine 183")),
            (elf(2, 1, 40), Err("machine 40")),
            (elf(2, 2, 183), Err("machine 183")),
            (b"#!/bin/busybox sh\nexit 0\n".to_vec(), Err("no ELF")),
            (vec![], Err("no ELF")),
        ];
        for (program, want) in cases {
            match (Architecture::of_program(&program), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want),
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                (found, want) => panic!("{found:?}, expected {want:?}"),
            }
        }
    }

    #[test]
    fn a_board_runs_what_its_programs_are() {
        let both = |kernel, programs| Ok(System { kernel, programs });
        // Machine, bits, Debian's name, class.
        let cases = [
            // Raspberry Pi OS of 64 bits; Ubuntu; JetPack.
            (["aarch64", "64", "arm64", "2"], both(Aarch64, Aarch64)),
            // Raspberry Pi OS of 32 bits on a Pi 3, 4 or Zero 2 W: a 64-bit kernel.
            (["aarch64", "32", "armhf", "1"], both(Aarch64, Armv7)),
            // The same with arm_64bit=0, and on a Pi 2.
            (["armv7l", "32", "armhf", "1"], both(Armv7, Armv7)),
            // A 32-bit Debian on a 32-bit kernel of an ARMv8.
            (["armv8l", "32", "armhf", "1"], both(Armv7, Armv7)),
            // setarch linux32 on a 64-bit system.
            (["armv8l", "64", "arm64", "2"], both(Aarch64, Aarch64)),
            // Alpine: neither getconf nor dpkg.
            (["aarch64", "", "", "2"], both(Aarch64, Aarch64)),
            (["aarch64", "", "", "1"], both(Aarch64, Armv7)),
            (["armv7l", "", "", "1"], both(Armv7, Armv7)),
            // Packages for 32 bits, and a C library that is asked first.
            (["aarch64", "", "armhf", ""], both(Aarch64, Armv7)),
            (["aarch64", "", "armel", "2"], both(Aarch64, Armv7)),
            (["aarch64", "64", "armhf", "1"], both(Aarch64, Aarch64)),
            // A getconf that does not know the variable says other things.
            (["aarch64", "undefined", "arm64", "1"], both(Aarch64, Aarch64)),
            // Nothing but uname; macOS's and BSD's word for it.
            (["aarch64", "", "", ""], both(Aarch64, Aarch64)),
            (["arm64", "64", "", ""], both(Aarch64, Aarch64)),
            (["armv7l", "", "", ""], both(Armv7, Armv7)),
            // Raspberry Pi 1 and Zero; what has no kernels; what says nothing.
            (["armv6l", "32", "armhf", "1"], Err("before version 7")),
            (["armv5tel", "32", "armel", "1"], Err("before version 7")),
            (
                ["x86_64", "64", "amd64", "2"],
                Err("x86_64; thimble-device is for aarch64"),
            ),
            (["aarch64_be", "64", "", "2"], Err("aarch64_be;")),
            (["riscv64", "64", "riscv64", "2"], Err("riscv64;")),
            (["", "", "", ""], Err("of an unknown kind;")),
        ];
        for ([machine, bits, debian, class], want) in cases {
            let answers = Answers {
                machine,
                bits,
                debian,
                class,
            };
            match (System::of(&answers), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{answers:?}"),
                (Err(found), Err(part)) => assert!(found.to_string().contains(part), "{found}"),
                (found, want) => panic!("{answers:?}: {found:?}, expected {want:?}"),
            }
        }
    }

    #[test]
    fn a_64_bit_kernel_runs_both() {
        let system = |kernel, programs| System { kernel, programs };
        for (system, runs) in [
            (system(Aarch64, Aarch64), [true, false]),
            (system(Aarch64, Armv7), [true, true]),
            (system(Armv7, Armv7), [false, true]),
        ] {
            assert_eq!(Architecture::ALL.map(|one| system.runs(one)), runs, "{system:?}");
        }
    }
}
