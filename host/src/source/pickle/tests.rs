//! The interpreter on a hand-made pickle, with one part after another replaced by what must be refused.

use super::*;

/// `{"w": tensor}` of shape [2, 3] over a storage of six floats, as torch pickles it, with one part replaced.
fn pickled(part: &str, with: &[u8]) -> Vec<u8> {
    let parts: [(&str, &[u8]); 9] = [
        ("start", b"\x80\x02}X\x01\x00\x00\x00w"),
        ("callee", b"ctorch._utils\n_rebuild_tensor_v2\n"),
        (
            "storage",
            b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ",
        ),
        ("offset", b"K\x00"),
        ("shape", b"K\x02K\x03\x86"),
        ("strides", b"K\x03K\x01\x86"),
        ("rest", b"\x89ccollections\nOrderedDict\n)R"),
        ("call", b"tR"),
        ("end", b"s."),
    ];
    parts
        .iter()
        .flat_map(|(name, bytes)| if *name == part { with } else { bytes })
        .copied()
        .collect()
}

#[test]
fn a_tensor_is_described_and_not_built() {
    let dict = state_dict(&pickled("", b"")).unwrap();
    let want = Strided {
        key: "0".into(),
        dtype: Dtype::F32,
        storage_len: 6,
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(dict, [("w".to_string(), want)]);
}

#[test]
fn whatever_a_state_dict_does_not_need_is_refused_by_name() {
    let cases: [(&str, &[u8], &str); 16] = [
        ("callee", b"cos\nsystem\n", "global os.system is not allowed"),
        (
            "callee",
            b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93",
            "global os.system is not allowed",
        ),
        ("callee", b"cbuiltins\neval\n", "global builtins.eval"),
        ("callee", b"ctorch\nload\n", "global torch.load"),
        ("callee", b"ctorch\nQUInt8Storage\n", "global torch.QUInt8Storage"),
        ("callee", b"ios\nsystem\n", "opcode INST (0x69)"),
        ("call", b"t\x81", "opcode NEWOBJ (0x81)"),
        ("call", b"o", "opcode OBJ (0x6f)"),
        ("storage", b"(K\x01", "_rebuild_tensor_v2 without a storage"),
        ("storage", b"(K\x01Q", "a persistent id is an integer"),
        ("offset", b"J\xff\xff\xff\xff", "offset is -1"),
        (
            "offset",
            b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
            "an integer of 9 bytes",
        ),
        ("shape", b"N", "shape is None"),
        ("call", b"tR}b", "BUILD sets attributes on a tensor"),
        ("end", b"uuu.", "no mark on the stack"),
        ("end", b".", "the file holds a tensor, not a state dict"),
    ];
    for (part, with, want) in cases {
        let (_, error) = state_dict(&pickled(part, with)).unwrap_err();
        assert!(error.to_string().contains(want), "expected {want}, found {error}");
    }
}

#[test]
fn cut_short_or_changed_it_is_an_error_or_a_read() {
    let whole = pickled("", b"");
    for len in 0..whole.len() {
        assert!(state_dict(&whole[..len]).is_err(), "{len} bytes");
    }
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut changed = whole.clone();
            changed[at] = byte;
            let _ = state_dict(&changed);
        }
    }
}

/// Half a million tuples inside each other, and a list that doubles through the memo: both cost what their bytes cost.
#[test]
fn nesting_and_doubling_cost_only_their_bytes() {
    let mut nested = b"\x80\x02)".to_vec();
    nested.extend(std::iter::repeat_n(0x85, 500_000));
    nested.push(b'.');
    assert!(state_dict(&nested).is_err());
    let mut doubled = b"\x80\x02]q\x00".to_vec();
    for slot in 0..200u8 {
        doubled.extend([b']', b'q', slot + 1, b'(', b'h', slot, b'h', slot, b'e']);
    }
    doubled.push(b'.');
    assert!(state_dict(&doubled).is_err());
}
