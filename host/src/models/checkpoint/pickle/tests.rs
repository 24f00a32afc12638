//! The interpreter on a hand-made pickle, with one part after another replaced by what must be refused.

use super::value::Strided;
use super::*;
use crate::models::checkpoint::raw::Dtype;

fn state_dict(bytes: &[u8]) -> Result<StateDict, (usize, PickleError)> {
    let (pickle, end) = load(bytes, 0)?;
    pickle.state_dict().map_err(|error| (end, error))
}

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
    let storage = Storage {
        key: "0".into(),
        dtype: Dtype::F32,
        width: 4,
        len: 6,
        start: 0,
    };
    let want = Strided {
        storage: Rc::new(storage),
        offset: 0,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(dict.tensors, [("w".to_string(), want)]);
}

#[test]
fn whatever_a_state_dict_does_not_need_is_refused_by_name() {
    let cases: [(&str, &[u8], &str); 24] = [
        ("callee", b"cos\nsystem\n", "global os.system is not allowed"),
        (
            "callee",
            b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93",
            "global os.system is not allowed",
        ),
        ("callee", b"cbuiltins\neval\n", "global builtins.eval"),
        ("callee", b"ctorch\nload\n", "global torch.load"),
        ("callee", b"cmine\nTensor\n", "global mine.Tensor is not allowed"),
        ("callee", b"ctorch\nQUInt8Storage\n", "called with 6 arguments"),
        ("callee", b"ios\nsystem\n", "opcode INST (0x69)"),
        ("call", b"o", "opcode OBJ (0x6f)"),
        ("storage", b"(K\x01", "_rebuild_tensor_v2 without a storage"),
        ("storage", b"(K\x01Q", "a persistent id is an integer"),
        (
            "storage",
            b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06X\x01\x00\x00\x001K\x04K\x03\x87tQ",
            "a view reaches outside storage '0' of 6 elements",
        ),
        ("offset", b"J\xff\xff\xff\xff", "offset is -1"),
        (
            "offset",
            b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
            "offset is a long integer",
        ),
        ("callee", b"csubprocess\nPopen\n", "global subprocess.Popen is not allowed"),
        ("callee", b"cos\nexecve\n", "global os.execve is not allowed"),
        ("callee", b"crunpy\n_run_code\n", "global runpy._run_code is not allowed"),
        ("callee", b"cpip._internal\nmain\n", "global pip._internal.main is not allowed"),
        (
            "rest",
            b"\x89ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00neg\x88s",
            "the mark 'neg'",
        ),
        (
            "rest",
            b"\x89ccollections\nOrderedDict\n)R}(X\x03\x00\x00\x00neg\x89X\x04\x00\x00\x00conj\x88u",
            "save what tensor.resolve_conj() gives",
        ),
        ("shape", b"N", "shape is None"),
        ("call", b"tR}b", "BUILD sets attributes on a tensor"),
        ("end", b"uuu.", "no mark on the stack"),
        ("end", b".", "the file holds a tensor, not a state dict"),
        ("end", b"s}b.", "BUILD sets attributes on a dictionary"),
    ];
    for (part, with, want) in cases {
        let (_, error) = state_dict(&pickled(part, with)).unwrap_err();
        assert!(error.to_string().contains(want), "expected {want}, found {error}");
    }
}

/// What is no tensor is passed over wherever it lies; the weights are found inside it.
#[test]
fn other_objects_are_left_alone() {
    let tensor = pickled("", b"");
    let dict = &tensor[2..tensor.len() - 1];
    let around: [(&str, &[u8], &[u8]); 9] = [
        ("a name", b"\x80\x02}X\x03\x00\x00\x00net", b"s."),
        ("a tuple of Python 2", b"\x80\x02(U\x03net", b"t."),
        (
            "an object beside",
            b"\x80\x02}(X\x01\x00\x00\x00acmine\nOptions\n)\x81}bX\x01\x00\x00\x00b",
            b"u.",
        ),
        ("a call beside", b"\x80\x02](cnumpy\nscalar\nK\x01C\x02ab\x86R", b"e."),
        (
            "sets and bytes",
            b"\x80\x04](\x8f(K\x01\x90(K\x01\x91\x8e\x01\x00\x00\x00\x00\x00\x00\x00x",
            b"e.",
        ),
        (
            "long integers",
            b"\x80\x02](\x8b\x09\x00\x00\x00123456789I01\nL12345678901234567890L\n",
            b"e.",
        ),
        (
            "a default",
            b"\x80\x02](ccollections\ndefaultdict\nc__builtin__\nlist\n\x85RK\x01K\x02s",
            b"e.",
        ),
        ("what is popped", b"\x80\x02](K\x0100(K\x01K\x021", b"a."),
        (
            "an ordered dictionary of Python 2",
            b"\x80\x02ccollections\nOrderedDict\n](]U\x03optaU\x01xa]U\x03neta",
            b"ae\x85R.",
        ),
    ];
    for (what, before, after) in around {
        let bytes = [before, dict, after].concat();
        let found = state_dict(&bytes).unwrap_or_else(|(at, e)| panic!("{what}, byte {at}: {e}"));
        assert_eq!(found.tensors.len(), 1, "{what}");
        assert_eq!(found.tensors[0].0, "w", "{what}");
    }
}

/// A text as pickles write it.
fn text(name: &str) -> Vec<u8> {
    [b"X", &(name.len() as u32).to_le_bytes()[..], name.as_bytes()].concat()
}

/// A dictionary of what the names lead to.
fn dict(items: &[(&str, &[u8])]) -> Vec<u8> {
    let items = items.iter().flat_map(|(name, value)| [&text(name)[..], value].concat());
    [b"}(".to_vec(), items.collect(), b"u".to_vec()].concat()
}

fn error(value: &[u8]) -> PickleError {
    state_dict(&[b"\x80\x02", value, b"."].concat()).unwrap_err().1
}

#[test]
fn whole_modules_are_told() {
    let module: &[u8] = b"cmine\nNet\n)\x81}X\x08\x00\x00\x00_modules}sb";
    let rebuilt: &[u8] =
        b"ccopy_reg\n_reconstructor\n(cmine\nNet\nc__builtin__\nobject\nNtR}X\x0b\x00\x00\x00_parameters}sb";
    let tensor = pickled("", b"");
    let tensor = &tensor[9..tensor.len() - 2];
    let optimizer = dict(&[("state", &dict(&[("exp_avg", tensor)])), ("param_groups", b"]")]);
    for (value, at) in [
        (module.to_vec(), ""),
        (dict(&[("model", rebuilt)]), "['model']"),
        (
            dict(&[("model", module), ("optimizer", &optimizer), ("epoch", b"K\x03")]),
            "['model']",
        ),
        (dict(&[("net", module), ("swa", tensor)]), "['net']"),
        (
            dict(&[("classifier", module), ("optimizer", &optimizer)]),
            "['classifier']",
        ),
        (dict(&[("best", &dict(&[("model", module)]))]), "['best']['model']"),
        ([b"](", tensor, module, b"e"].concat(), "[1]"),
    ] {
        let (class, at) = ("mine.Net".into(), at.to_string());
        assert_eq!(error(&value), PickleError::Module { class, at });
    }
    for value in [
        optimizer.clone(),
        dict(&[("epoch", b"K\x03"), ("optimizers", &optimizer)]),
    ] {
        assert_eq!(error(&value), PickleError::Optimizer);
    }
    // A loss beside weights is no model.
    let shard = dict(&[("weights", &dict(&[("x.weight", tensor)])), ("criterion", module)]);
    let found = state_dict(&[b"\x80\x02", &shard[..], b"."].concat()).unwrap();
    assert_eq!((found.tensors.len(), found.path.as_str()), (1, "weights"));
}

/// `{"ema": {...}, "model": {...}}`, both with an ALBERT's word embeddings: the likelier name counts, and two unlikely ones are
/// refused.
#[test]
fn of_two_models_the_likelier_is_read() {
    let tensor = pickled("", b"");
    let dict = &tensor[2..tensor.len() - 1];
    let at = dict.windows(5).position(|w| w == b"\x01\x00\x00\x00w").unwrap();
    let marked = [&dict[..at], b"\x16\x00\x00\x00word_embeddings.weight", &dict[at + 5..]].concat();
    let both = |a: &str, b: &str| {
        let parts = [
            b"\x80\x02}(".to_vec(),
            text(a),
            marked.clone(),
            text(b),
            marked.clone(),
            b"u.".to_vec(),
        ];
        state_dict(&parts.concat())
    };
    assert_eq!(both("ema", "model").unwrap().path, "model");
    assert_eq!(both("model", "ema").unwrap().beside, ["ema"]);
    let (_, error) = both("teacher", "student").unwrap_err();
    assert!(error.to_string().contains("'teacher' and 'student'"), "{error}");
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
