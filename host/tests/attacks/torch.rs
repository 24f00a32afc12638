//! Attacks on torch's checkpoints: the zip archive, and the pickle inside that a Python program would execute.

use super::Attack;
use super::Expect::{Read, Refused};
use super::Reader::Checkpoint;
use super::checkpoint::{NUMBERS, configured, good};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An entry of an archive, and what is said of it that need not be so.
#[derive(Clone, Default)]
struct Entry {
    name: String,
    payload: Vec<u8>,
    /// The name where it lies, when another than the directory's.
    local_name: Option<String>,
    method: u16,
    /// Its size as the directory has it: unpacked, and stored.
    sizes: Option<(u32, u32)>,
    /// The entry it shares its bytes with instead of having its own.
    shares: Option<usize>,
}

fn entry(name: &str, payload: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        payload: payload.into(),
        ..Entry::default()
    }
}

fn zip(entries: &[Entry]) -> Vec<u8> {
    let two = |n: usize| (n as u16).to_le_bytes();
    let four = |n: usize| (n as u32).to_le_bytes();
    let mut out = Vec::new();
    let mut places = Vec::new();
    for entry in entries {
        places.push(entry.shares.map_or(out.len(), |other| places[other]));
        if entry.shares.is_none() {
            let name = entry.local_name.as_ref().unwrap_or(&entry.name);
            let len = four(entry.payload.len());
            out.extend([&b"PK\x03\x04"[..], &[0; 14], &len, &len, &two(name.len()), &[0; 2]].concat());
            out.extend([name.as_bytes(), &entry.payload].concat());
        }
    }
    let start = out.len();
    for (entry, place) in entries.iter().zip(places) {
        let len = entry.payload.len() as u32;
        let (size, stored) = entry.sizes.unwrap_or((len, len));
        out.extend([&b"PK\x01\x02"[..], &[0; 6], &entry.method.to_le_bytes(), &[0; 8]].concat());
        out.extend([stored.to_le_bytes(), size.to_le_bytes()].concat());
        out.extend(
            [
                &two(entry.name.len())[..],
                &[0; 12],
                &four(place),
                entry.name.as_bytes(),
            ]
            .concat(),
        );
    }
    let size = out.len() - start;
    let count = two(entries.len());
    out.extend(
        [
            &b"PK\x05\x06"[..],
            &[0; 4],
            &count,
            &count,
            &four(size),
            &four(start),
            &[0; 2],
        ]
        .concat(),
    );
    out
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    if !folder.join("config.json").exists() {
        configured(folder, |_| {});
    }
    std::fs::write(folder.join("pytorch_model.bin"), bytes).unwrap();
    folder.to_path_buf()
}

/// A tensor of f32 as torch pickles it: a view of storage `key`.
fn pickled(key: &str, elements: usize, shape: &[u64]) -> Vec<u8> {
    let int = |n: u64| [&b"J"[..], &(n as u32).to_le_bytes()].concat();
    let ints = |list: &[u64]| [&b"("[..], &list.iter().flat_map(|&n| int(n)).collect::<Vec<_>>(), b"t"].concat();
    let strides: Vec<u64> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        b"(",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &int(elements as u64),
        b"tQ",
        &int(0),
        &ints(shape),
        &ints(&strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// A state dict of the good checkpoint's tensors, each with a storage of its own.
fn state_dict() -> Vec<Entry> {
    let (header, data) = good();
    let mut pickle = b"\x80\x02}".to_vec();
    let mut storages = Vec::new();
    let tensors = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__");
    for (n, (name, tensor)) in tensors.enumerate() {
        let numbers = |field: &str| -> Vec<u64> {
            let list = tensor[field].as_array().unwrap();
            list.iter().map(|v| v.as_u64().unwrap()).collect()
        };
        let range = numbers("data_offsets");
        let bytes = &data[range[0] as usize..range[1] as usize];
        pickle.extend(named(
            name,
            &pickled(&n.to_string(), bytes.len() / 4, &numbers("shape")),
        ));
        storages.push(entry(&format!("m/data/{n}"), bytes));
    }
    pickle.push(b'.');
    [vec![entry("m/data.pkl", &pickle)], storages].concat()
}

fn named(name: &str, tensor: &[u8]) -> Vec<u8> {
    [&text(name), tensor, b"s"].concat()
}

/// BINUNICODE.
fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn archive(folder: &Path, change: fn(&mut Vec<Entry>)) -> PathBuf {
    let mut entries = state_dict();
    change(&mut entries);
    write(folder, &zip(&entries))
}

/// A checkpoint whose pickle these bytes are.
pub fn pickle(folder: &Path, bytes: &[u8]) -> PathBuf {
    write(folder, &zip(&[entry("m/data.pkl", bytes)]))
}

/// A thousand groups of layers whose weights all lie in one storage.
fn layers_in_one_storage(folder: &Path) -> PathBuf {
    configured(folder, |c| {
        c["num_hidden_layers"] = 1024.into();
        c["num_hidden_groups"] = 1024.into();
    });
    let (header, data) = good();
    let elements = data.len() / 4;
    let mut shapes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (name, tensor) in header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
    {
        let shape = tensor["shape"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Json::as_u64)
            .collect::<Vec<_>>();
        for group in 0..1024 {
            shapes.insert(name.replace("groups.0", &format!("groups.{group}")), shape.clone());
        }
    }
    let mut pickle = b"\x80\x02}".to_vec();
    for (name, shape) in &shapes {
        pickle.extend(named(name, &pickled("0", elements, shape)));
    }
    pickle.push(b'.');
    write(folder, &zip(&[entry("m/data.pkl", &pickle), entry("m/data/0", &data)]))
}

/// Tuples of tuples, each twice the one before through the memo: 2²⁰⁰ elements to a reader that copies.
fn laughs() -> Vec<u8> {
    let mut bytes = b"\x80\x02)q\x00".to_vec();
    for slot in 0..200u8 {
        bytes.extend([b'h', slot, b'h', slot, 0x86, b'q', slot + 1]);
    }
    bytes.push(b'.');
    bytes
}

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    Attack {
        name,
        imitates,
        reader: Checkpoint,
        build,
        expect: Refused(words),
    }
}

const CALLS: &str = "CVE-2025-32434 (torch.load, weights_only too): unpickling a checkpoint ran the attacker's code";
const BOMB: &str = "zip bombs (42.zip, Fifield's overlapping entries): a small archive that unpacks to petabytes";
const SCANNERS: &str = "CVE-2025-10156 and its like (picklescan): scanner and loader see two different archives";
const SLIP: &str = "zip slip (CVE-2018-1002200 and its like): entry names that climb out of the folder";
const LAUGHS: &str = "billion laughs, in a pickle's memo";
const LENGTHS: &str = "rten issue 1218: memory taken because the file declares it";

pub const ROWS: &[Attack] = &[
    row(
        "os.system by REDUCE",
        CALLS,
        |d| pickle(d, b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R."),
        "global os.system is not allowed",
    ),
    row(
        "posix.system by REDUCE",
        CALLS,
        |d| pickle(d, b"\x80\x02cposix\nsystem\nX\x0e\x00\x00\x00touch executed\x85R."),
        "global posix.system is not allowed",
    ),
    row(
        "STACK_GLOBAL",
        CALLS,
        |d| {
            pickle(
                d,
                b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
            )
        },
        "global posix.system is not allowed",
    ),
    row(
        "a global whose name is dotted",
        CALLS,
        |d| pickle(d, b"\x80\x04\x8c\x05torch\x8c\x0bload.system\x93."),
        "global torch.load.system is not allowed",
    ),
    row(
        "INST",
        CALLS,
        |d| pickle(d, b"(S'touch executed'\nios\nsystem\n."),
        "opcode STRING",
    ),
    row(
        "INST without arguments",
        CALLS,
        |d| pickle(d, b"\x80\x02(ios\nsystem\n."),
        "opcode INST",
    ),
    row(
        "OBJ",
        CALLS,
        |d| pickle(d, b"\x80\x02(ccollections\nOrderedDict\no."),
        "opcode OBJ",
    ),
    row(
        "NEWOBJ",
        CALLS,
        |d| pickle(d, b"\x80\x02cmine\nNet\n)\x81."),
        "global mine.Net is not allowed",
    ),
    row(
        "NEWOBJ_EX",
        CALLS,
        |d| pickle(d, b"\x80\x04cmine\nNet\n)}\x92."),
        "global mine.Net is not allowed",
    ),
    row(
        "BUILD, which calls __setstate__",
        CALLS,
        |d| pickle(d, b"\x80\x02}}b."),
        "BUILD sets attributes on",
    ),
    row("EXT1", CALLS, |d| pickle(d, b"\x80\x02\x82\x01."), "opcode EXT1"),
    row("EXT2", CALLS, |d| pickle(d, b"\x80\x02\x83\x01\x00."), "opcode EXT2"),
    row(
        "EXT4",
        CALLS,
        |d| pickle(d, b"\x80\x02\x84\x01\x00\x00\x00."),
        "opcode EXT4",
    ),
    row("PERSID", CALLS, |d| pickle(d, b"Pos.system\n."), "opcode PERSID"),
    row(
        "a storage of a foreign class",
        CALLS,
        |d| {
            pickle(
                d,
                b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ.",
            )
        },
        "global os.system is not allowed",
    ),
    row(
        "a persistent id that is no storage",
        CALLS,
        |d| pickle(d, b"\x80\x02(X\x06\x00\x00\x00modulectorch\nFloatStorage\ntQ."),
        "does not describe a storage",
    ),
    row(
        "a call of a value that is called already",
        CALLS,
        |d| pickle(d, b"\x80\x02ccollections\nOrderedDict\n)R)R."),
        "calls a dictionary",
    ),
    row(
        "os.system beside a state dict",
        CALLS,
        |d| {
            archive(d, |entries| {
                let evil = [
                    &text("epoch")[..],
                    b"cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85Rs.",
                ]
                .concat();
                entries[0].payload.pop();
                entries[0].payload.extend(evil);
            })
        },
        "global os.system is not allowed",
    ),
    Attack {
        name: "an unknown object beside a state dict",
        imitates: CALLS,
        reader: Checkpoint,
        build: |d| {
            archive(d, |entries| {
                let object = [&text("options")[..], b"cmine\nOptions\n)\x81}bs."].concat();
                entries[0].payload.pop();
                entries[0].payload.extend(object);
            })
        },
        expect: Read("trainers keep options beside the weights: what they are of is never called"),
    },
    Attack {
        name: "harmless things of modules that attacks use",
        imitates: "none: what training scripts keep beside the weights",
        reader: Checkpoint,
        build: |d| {
            archive(d, |entries| {
                let keep = |name: &str, object: &[u8]| [&text(name)[..], object, b"s"].concat();
                let beside = [
                    keep("args", b"ccode.args\nA\n)\x81}b"),
                    keep("status", b"chttp\nHTTPStatus\nK\xc8\x85R"),
                    keep("stat", b"cos\nstat_result\n)R"),
                    keep("join", b"cposixpath\njoin\n"),
                    b".".to_vec(),
                ];
                entries[0].payload.pop();
                entries[0].payload.extend(beside.concat());
            })
        },
        expect: Read("nothing in a pickle is called: a package's name alone is no attack"),
    },
    row(
        "an unknown object for a weight",
        CALLS,
        |d| {
            archive(d, |entries| {
                let object = [&text("extra.weight")[..], b"cmine\nTensor\n)Rs."].concat();
                entries[0].payload.pop();
                entries[0].payload.extend(object);
            })
        },
        "global mine.Tensor is not allowed",
    ),
    row(
        "a whole module",
        CALLS,
        |d| pickle(d, b"\x80\x02cmine\nNet\n)\x81}X\x08\x00\x00\x00_modules}sb."),
        "a whole pickled module (mine.Net)",
    ),
    row(
        "torch's old format, a bare pickle",
        CALLS,
        |d| write(d, b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R."),
        "a pickle that torch.save did not write",
    ),
    row(
        "a bare pickle of protocol 0",
        CALLS,
        |d| write(d, b"cos\nsystem\n(S'touch executed'\ntR."),
        "a text, not a model",
    ),
    row(
        "a weight that is another's, negated",
        NUMBERS,
        |d| {
            archive(d, |entries| {
                let pickle = &mut entries[0].payload;
                let marked = [b"}".as_slice(), &text("neg"), b"\x88stR"].concat();
                pickle.splice(pickle.len() - 4..pickle.len() - 2, marked);
            })
        },
        "a tensor has the mark 'neg'",
    ),
    row(
        "NaN in a weight",
        NUMBERS,
        |d| {
            archive(d, |entries| {
                entries[1].payload[..4].copy_from_slice(&f32::NAN.to_le_bytes())
            })
        },
        "numbers are not finite",
    ),
    row(
        "a second pickle beside the first",
        SCANNERS,
        |d| archive(d, |entries| entries.push(entry("n/data.pkl", b"cos\nsystem\n."))),
        "more than one data.pkl",
    ),
    row(
        "two entries of one name",
        SCANNERS,
        |d| archive(d, |entries| entries.push(entry("m/data.pkl", b"cos\nsystem\n."))),
        "two entries are named",
    ),
    row(
        "an entry with two names",
        SCANNERS,
        |d| archive(d, |entries| entries[0].local_name = Some("m/data.txt".into())),
        "has another name where it lies",
    ),
    row(
        "a compressed entry",
        BOMB,
        |d| {
            archive(d, |entries| {
                entries[1].method = 8;
                entries[1].sizes = Some((u32::MAX - 1, 64));
            })
        },
        "is compressed (method 8)",
    ),
    row(
        "a declared size that is not the stored one",
        BOMB,
        |d| {
            archive(d, |entries| {
                entries[1].sizes = Some((u32::MAX - 1, entries[1].payload.len() as u32))
            })
        },
        "is compressed (method 0)",
    ),
    row(
        "a size past the end",
        BOMB,
        |d| archive(d, |entries| entries[1].sizes = Some((u32::MAX - 1, u32::MAX - 1))),
        "reaches past the end of the file",
    ),
    row(
        "entries that share their bytes",
        BOMB,
        |d| {
            archive(d, |entries| {
                let mut more = entry("m/data.pkl", b"");
                more.payload = entries[1].payload.clone();
                entries[2] = Entry {
                    name: entries[2].name.clone(),
                    local_name: None,
                    shares: Some(1),
                    ..more
                };
                // The name where they lie is the first one's.
                entries[2].name = format!("{} ", entries[1].name);
            })
        },
        "has another name where it lies",
    ),
    row(
        "an entry that holds the next one",
        BOMB,
        |d| {
            archive(d, |entries| {
                let long = entries[1].payload.len() as u32 + 40;
                entries[1].sizes = Some((long, long));
            })
        },
        "overlap at byte",
    ),
    row(
        "weights of 1024 layers in one storage",
        BOMB,
        layers_in_one_storage,
        "are views of",
    ),
    Attack {
        name: "an entry named ../../etc/x",
        imitates: SLIP,
        reader: Checkpoint,
        build: |d| archive(d, |entries| entries.push(entry("../../victim", b"written"))),
        expect: Read("names are only labels: nothing is ever unpacked"),
    },
    row(
        "a storage named ../victim",
        SLIP,
        |d| {
            let tensor = named("classifier.weight", &pickled("../../victim", 16, &[16]));
            pickle(d, &[b"\x80\x02}", &tensor[..], b"."].concat())
        },
        "data/../../victim is not in the archive",
    ),
    row(
        "tuples that double 200 times",
        LAUGHS,
        |d| pickle(d, &laughs()),
        "the file holds a tuple",
    ),
    row(
        "100,000 tuples inside each other",
        "stack exhaustion, in a pickle",
        |d| pickle(d, &[&b"\x80\x02)"[..], &vec![0x85; 100_000], b"."].concat()),
        "the file holds a tuple",
    ),
    row(
        "four million values remembered",
        LAUGHS,
        |d| pickle(d, &[&b"\x80\x04)"[..], &vec![0x94; 4_000_000], b"."].concat()),
        "the file holds a tuple",
    ),
    row(
        "two million values",
        LAUGHS,
        |d| pickle(d, &[&b"\x80\x04"[..], &vec![b'N'; 2_000_000], b"."].concat()),
        "more than 1048576 values",
    ),
    row(
        "100,000 marks",
        "stack exhaustion, in a pickle",
        |d| pickle(d, &[&b"\x80\x02"[..], &vec![b'('; 100_000], b"."].concat()),
        "pops more than the stack holds",
    ),
    row(
        "a string of 4 GiB",
        LENGTHS,
        |d| pickle(d, b"\x80\x02X\xff\xff\xff\xffabc"),
        "ends in the middle",
    ),
    row(
        "LONG4 of 2 GiB",
        LENGTHS,
        |d| pickle(d, b"\x80\x02\x8b\xff\xff\xff\x7f\x01."),
        "ends in the middle",
    ),
    row(
        "BINBYTES8 of 2⁶³ bytes",
        LENGTHS,
        |d| pickle(d, b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f\x01."),
        "ends in the middle",
    ),
    row(
        "BINUNICODE8 of 2⁶³ bytes",
        LENGTHS,
        |d| pickle(d, b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f\x01."),
        "ends in the middle",
    ),
    row(
        "a memo slot of 2³²",
        LENGTHS,
        |d| pickle(d, b"\x80\x02)r\xff\xff\xff\xff."),
        "the file holds a tuple",
    ),
    row(
        "a storage of 2⁶² elements",
        LENGTHS,
        |d| {
            let storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu";
            let rest = b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR";
            let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], rest].concat();
            let pickle = [b"\x80\x02}", &named("w", &tensor)[..], b"."].concat();
            write(d, &zip(&[entry("m/data.pkl", &pickle), entry("m/data/0", &[0; 24])]))
        },
        "has 24 bytes, not 4611686018427387904 elements",
    ),
    Attack {
        name: "a sound stream of before 1.6",
        imitates: "none: what the rows below change",
        reader: Checkpoint,
        build: |d| stream(d, |_| {}),
        expect: Read("nothing is wrong with it"),
    },
    row(
        "os.system in a stream's object",
        CALLS,
        |d| {
            stream(d, |s| {
                s.object = b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R.".to_vec()
            })
        },
        "global os.system is not allowed",
    ),
    row(
        "os.system in a stream's facts about the machine",
        CALLS,
        |d| {
            stream(d, |s| {
                s.machine = b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R.".to_vec()
            })
        },
        "global os.system is not allowed",
    ),
    row(
        "another version of the stream's protocol",
        "type confusion: another format behind the same mark",
        |d| stream(d, |s| s.version = b"\x80\x02M\xea\x03.".to_vec()),
        "protocol version 1002 is unknown",
    ),
    row(
        "a big-endian stream",
        NUMBERS,
        |d| {
            stream(d, |s| {
                s.machine = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x89s.".to_vec()
            })
        },
        "big-endian machine",
    ),
    row(
        "a stream's storage of 2⁶³ elements",
        LENGTHS,
        |d| stream(d, |s| s.storages[0].0 = 1 << 63),
        "its tensors say",
    ),
    row(
        "a stream's storage and tensor of 2⁶² elements",
        LENGTHS,
        |d| {
            stream(d, |s| {
                let id = b"\x80\x02}X\x01\x00\x00\x00w(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40NtQs";
                let tensor = pickled("1", 1, &[1]);
                s.object = [&id[..], &text("x"), &tensor, b"s."].concat();
                s.keys = b"\x80\x02]X\x01\x00\x00\x000a.".to_vec();
                s.storages = vec![(1 << 62, vec![0; 16])];
            })
        },
        "the file ends after",
    ),
    row(
        "a stream cut short in a storage",
        LENGTHS,
        |d| stream(d, |s| s.storages.last_mut().unwrap().1.truncate(7)),
        "inside storage",
    ),
    row(
        "a stream without its storages",
        LENGTHS,
        |d| stream(d, |s| s.storages.clear()),
        "inside storage '0'",
    ),
    row(
        "a stream's key twice",
        BOMB,
        |d| {
            stream(d, |s| {
                s.keys = b"\x80\x02]q\x00(X\x01\x00\x00\x000q\x01h\x01e.".to_vec()
            })
        },
        "storage",
    ),
    row(
        "a stream's key that no tensor has",
        SCANNERS,
        |d| stream(d, |s| s.keys = b"\x80\x02](X\x03\x00\x00\x00abce.".to_vec()),
        "no tensor describes storage 'abc'",
    ),
    row(
        "a stream's keys that are a number",
        SCANNERS,
        |d| stream(d, |s| s.keys = b"\x80\x02K\x01.".to_vec()),
        "the keys of its storages are an integer",
    ),
    row(
        "a tensor whose storage the stream does not list",
        SCANNERS,
        |d| stream(d, |s| s.keys = b"\x80\x02].".to_vec()),
        "is not in the file",
    ),
    row(
        "a stream's storage in two types",
        "type confusion: declared as one type, stored as another",
        |d| {
            stream(d, |s| {
                let half =
                    b"(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ";
                s.object.pop();
                s.object.extend([&text("again")[..], half, b"s."].concat());
            })
        },
        "storage '0' is described in two ways",
    ),
    row(
        "a stream's object that contains itself",
        "a cycle, in a pickle",
        |d| {
            stream(d, |s| {
                s.object = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.".to_vec()
            })
        },
        "the file holds a dictionary, not a state dict",
    ),
    row(
        "dictionaries of one name 100,000 deep",
        "stack exhaustion, in a pickle",
        |d| {
            let name = text("state_dict");
            let deep = [&b"\x80\x02}"[..], &[&name[..], b"}"].concat().repeat(100_000), b"."].concat();
            pickle(d, &deep)
        },
        "the file holds a dictionary",
    ),
    row(
        "an ordered dictionary from one list 100,000 times",
        LAUGHS,
        |d| {
            let list = [
                &b"\x80\x02](ccollections\nOrderedDict\nq\x00]q\x01("[..],
                &b"K\x01K\x02\x86".repeat(1000),
                b"e\x85q\x02",
            ]
            .concat();
            pickle(d, &[&list[..], &b"h\x00h\x02R".repeat(100_000), b"e."].concat())
        },
        "the file holds a list",
    ),
    row(
        "one parameter rebuilt 100,000 times",
        LAUGHS,
        |d| {
            let tensor = pickled(&"k".repeat(1000), 1, &[1]);
            let once = [
                &b"\x80\x02](ctorch._utils\n_rebuild_parameter\nq\x00"[..],
                &tensor,
                b"\x85q\x01",
            ]
            .concat();
            pickle(d, &[&once[..], &b"h\x00h\x01R".repeat(100_000), b"e."].concat())
        },
        "the file holds a list",
    ),
];

/// The parts of a stream of before 1.6.
struct Stream {
    version: Vec<u8>,
    machine: Vec<u8>,
    object: Vec<u8>,
    keys: Vec<u8>,
    /// Count and bytes of each storage.
    storages: Vec<(u64, Vec<u8>)>,
}

/// The good checkpoint as such a stream, changed.
fn stream(folder: &Path, change: fn(&mut Stream)) -> PathBuf {
    let entries = state_dict();
    let keys: Vec<u8> = (1..entries.len()).flat_map(|n| text(&(n - 1).to_string())).collect();
    let mut stream = Stream {
        version: b"\x80\x02M\xe9\x03.".to_vec(),
        machine: b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.".to_vec(),
        object: entries[0].payload.clone(),
        keys: [&b"\x80\x02]("[..], &keys, b"e."].concat(),
        storages: entries[1..]
            .iter()
            .map(|e| (e.payload.len() as u64 / 4, e.payload.clone()))
            .collect(),
    };
    change(&mut stream);
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    let mut bytes = [
        &magic[..],
        &stream.version,
        &stream.machine,
        &stream.object,
        &stream.keys,
    ]
    .concat();
    for (count, data) in &stream.storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(data);
    }
    write(folder, &bytes)
}
