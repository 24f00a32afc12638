//! Names of models on the Hugging Face hub. In comes what a user gave and no file has, out comes the command that downloads it.

use std::path::Path;

/// Ids that the hub moved to an account of their own, and still knows.
const MOVED: [&str; 8] = [
    "albert-base-v1",
    "albert-large-v1",
    "albert-xlarge-v1",
    "albert-xxlarge-v1",
    "albert-base-v2",
    "albert-large-v2",
    "albert-xlarge-v2",
    "albert-xxlarge-v2",
];

/// What stands before an id where it is given as an address.
const ADDRESSES: [&str; 7] = [
    "https://huggingface.co/",
    "http://huggingface.co/",
    "https://www.huggingface.co/",
    "https://hf.co/",
    "huggingface.co/",
    "hf.co/",
    "hf://",
];

/// What stands between an id and a revision in the address of a page or a file.
const PAGES: [&str; 4] = ["tree", "blob", "resolve", "raw"];

/// How the names of files end that no id ends with.
const FILES: [&str; 7] = [".onnx", ".json", ".jsonl", ".safetensors", ".bin", ".pt", ".pth"];

/// Longest part of an id.
const MAX_PART: usize = 96;

fn is_part(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && !text.starts_with(['.', '-']) && text.len() <= MAX_PART && text.chars().all(plain)
}

/// The command that downloads a model of the hub, where `name` is its address, or may be its id or one of its files.
pub fn download(name: &str) -> Option<String> {
    let address = ADDRESSES.iter().find_map(|start| name.strip_prefix(start));
    let place = address.unwrap_or(name).trim_end_matches('/');
    let place = place.split(['?', '#']).next().unwrap_or(place);
    let parts: Vec<&str> = place.split('/').collect();
    let (id, inside) = match parts.as_slice() {
        [model, inside @ ..] if MOVED.contains(&model.split('@').next()?) => (format!("albert/{model}"), inside),
        [owner, model, inside @ ..] if is_part(owner) => (format!("{owner}/{model}"), inside),
        _ => return None,
    };
    let (id, after) = id
        .split_once('@')
        .map_or((id.as_str(), None), |(id, after)| (id, Some(after)));
    let page = match inside {
        [page, revision, ..] if address.is_some() && PAGES.contains(page) => Some(*revision),
        _ => None,
    };
    // A path of several folders is no id, unless a file of a model is at its end.
    let is_file = |part: &str| FILES.iter().any(|end| part.ends_with(end));
    let known = address.is_some() || inside.is_empty() || (inside.len() == 1 && is_file(inside[0]));
    let folder = id.rsplit('/').next().unwrap_or(id);
    if !known || !is_part(folder) || (address.is_none() && is_file(folder)) {
        return None;
    }
    let revision = match after.or(page).filter(|revision| *revision != "main") {
        None => String::new(),
        Some(revision) if is_part(revision) => format!(" --revision {revision}"),
        Some(_) => return None,
    };
    Some(format!("hf download {id}{revision} --local-dir {folder}"))
}

/// Whether a path leads to nothing and looks like a model's name on the hub.
pub fn is_id(path: &Path) -> bool {
    !path.exists() && command(path).is_some()
}

fn command(path: &Path) -> Option<String> {
    // What lies in a folder that is there was meant to be in it.
    let mut parts = path.components();
    let (first, more) = (parts.next()?, parts.count());
    if more > 1 && Path::new(&first).exists() {
        return None;
    }
    download(path.to_str()?)
}

/// The end of an error about a path that leads to nothing.
pub fn hint(path: &Path) -> String {
    match command(path) {
        Some(command) => format!(
            "; if it is a model's id on the Hugging Face hub, download it first: {command} (pip install huggingface_hub)"
        ),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_hub_has_its_command() {
        let base = Some("hf download albert/albert-base-v2 --local-dir albert-base-v2");
        for (name, want) in [
            ("albert-base-v2", base),
            ("albert/albert-base-v2", base),
            ("albert/albert-base-v2/", base),
            ("albert/albert-base-v2@main", base),
            ("albert-base-v2@main", base),
            ("albert/albert-base-v2/model.safetensors", base),
            ("albert-base-v2/model.safetensors", base),
            ("https://huggingface.co/albert/albert-base-v2", base),
            ("https://huggingface.co/albert-base-v2", base),
            ("https://huggingface.co/albert/albert-base-v2/tree/main", base),
            (
                "https://huggingface.co/albert/albert-base-v2/resolve/main/model.safetensors?download=true",
                base,
            ),
            ("hf://albert/albert-base-v2", base),
            (
                "albert/albert-base-v2@v1.0",
                Some("hf download albert/albert-base-v2 --revision v1.0 --local-dir albert-base-v2"),
            ),
            (
                "https://huggingface.co/a/b/tree/dev",
                Some("hf download a/b --revision dev --local-dir b"),
            ),
            (
                "voidful/albert_chinese_tiny",
                Some("hf download voidful/albert_chinese_tiny --local-dir albert_chinese_tiny"),
            ),
            ("my-model", None),
            ("./albert/base", None),
            ("a/b/c", None),
            ("a/b.onnx", None),
            ("/a/b", None),
            ("a/$(reboot)", None),
            ("a/b@$(reboot)", None),
            ("https://huggingface.co/a/$(reboot)", None),
            ("https://example.org/a/b", None),
            ("-o/x", None),
        ] {
            assert_eq!(download(name).as_deref(), want, "{name}");
        }
    }
}
