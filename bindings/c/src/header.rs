//! include/thimble.h against this library: the same functions with the same types, the same structures, the same codes.

use crate::status;

const HEADER: &str = include_str!("../include/thimble.h");
const SOURCES: [&str; 4] = [
    include_str!("status.rs"),
    include_str!("model.rs"),
    include_str!("outputs.rs"),
    include_str!("answers.rs"),
];

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The header without comments and what is for the preprocessor.
fn header() -> String {
    let mut text = String::new();
    let mut rest = HEADER;
    while let Some((before, comment)) = rest.split_once("/*") {
        text += before;
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    let all = text + rest;
    let lines = all.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// A parameter or field as C declares it.
fn declared(name: &str, rust: &str) -> String {
    if let Some(array) = rust.strip_prefix('[') {
        let (of, length) = array
            .trim_end_matches(']')
            .split_once("; ")
            .expect("a type and a length");
        assert_eq!(length, "RANK");
        return format!("{}[4]", declared(name, of));
    }
    match rust.strip_prefix("*const ").or(rust.strip_prefix("*mut ")) {
        Some(to) => {
            let constant = if rust.starts_with("*const ") { "const " } else { "" };
            match to.starts_with('*') {
                // A pointer to pointers: what is constant is the inner one.
                true => declared(&format!("*{constant}*{name}"), &format!("={to}")),
                false => format!("{constant}{} *{name}", plain(to)),
            }
        }
        None => match rust.strip_prefix('=') {
            Some(inner) => {
                let to = inner
                    .strip_prefix("*const ")
                    .or(inner.strip_prefix("*mut "))
                    .expect("a pointer");
                let constant = if inner.starts_with("*const ") { "const " } else { "" };
                format!("{constant}{} {name}", plain(to))
            }
            None => format!("{} {name}", plain(rust)),
        },
    }
}

fn plain(rust: &str) -> &str {
    match rust {
        "c_char" => "char",
        "c_int" => "int",
        "usize" => "size_t",
        "i64" => "int64_t",
        "f32" => "float",
        "f64" => "double",
        ours if ours.starts_with("thimble_") => ours,
        other => panic!("{other} has no counterpart in C here"),
    }
}

/// `name: type` of each, at the first level.
fn pairs(list: &str) -> Vec<(String, String)> {
    let list = words(list);
    let each = list.trim().trim_end_matches(',').split(", ");
    each.filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, kind) = pair.split_once(": ").unwrap_or_else(|| panic!("{pair}"));
            (name.to_string(), kind.to_string())
        })
        .collect()
}

/// Each function that C can call, as C would declare it.
fn functions() -> Vec<String> {
    let mut all = vec![];
    for source in SOURCES {
        for piece in source.split("#[unsafe(no_mangle)]\n").skip(1) {
            let (_, signature) = piece.split_once("fn ").expect("a function");
            let (name, rest) = signature.split_once('(').expect("parameters");
            let (list, rest) = rest.split_once(')').expect("their end");
            let result = rest.split_once('{').expect("a body").0.trim();
            let parameters: Vec<String> = pairs(list).iter().map(|(name, kind)| declared(name, kind)).collect();
            let parameters = match parameters.as_slice() {
                [] => "void".to_string(),
                some => some.join(", "),
            };
            let call = format!("{name}({parameters})");
            all.push(match result.strip_prefix("-> ") {
                Some(kind) => declared(&call, kind),
                None => format!("void {call}"),
            });
        }
    }
    all
}

#[test]
fn functions_are_the_same() {
    let header = header();
    let mut declared: Vec<String> = header
        .split([';', '{', '}'])
        .map(words)
        .filter(|text| text.contains('(') && text.contains("thimble_"))
        .collect();
    let mut exported = functions();
    declared.sort();
    exported.sort();
    assert_eq!(declared, exported);
    assert!(exported.len() > 20);
}

#[test]
fn structures_are_the_same() {
    let header = words(&header());
    for source in SOURCES {
        for piece in source.split("#[repr(C)]\n").skip(1) {
            let (_, body) = piece.split_once("pub struct ").expect("a structure");
            let (name, body) = body.split_once(" {").expect("fields");
            let fields = pairs(body.split_once('}').expect("their end").0);
            let fields: String = fields
                .iter()
                .map(|(name, kind)| format!("{}; ", declared(name, kind)))
                .collect();
            let wanted = format!("typedef struct {name} {{ {fields}}} {name};");
            assert!(header.contains(&wanted), "the header lacks\n{wanted}");
        }
    }
}

#[test]
fn codes_are_the_same() {
    let header = words(&header());
    let codes = [
        ("SUCCESS", status::SUCCESS),
        ("E_ARGUMENT", status::ARGUMENT),
        ("E_MODEL", status::MODEL),
        ("E_INPUT", status::INPUT),
        ("E_ENGINE", status::ENGINE),
        ("E_DEFECT", status::DEFECT),
    ];
    let list: Vec<String> = codes
        .iter()
        .map(|(name, code)| format!("THIMBLE_{name} = {code}"))
        .collect();
    assert!(header.contains(&format!("enum {{ {} }};", list.join(", "))), "{list:?}");
}

#[test]
fn every_declaration_has_a_comment() {
    let lines: Vec<&str> = HEADER.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let begins = line.contains(" thimble_") || line.contains(" *thimble_");
        if begins && line.contains('(') && !line.starts_with(' ') {
            assert!(lines[at - 1].ends_with("*/"), "{line}");
        }
    }
}
