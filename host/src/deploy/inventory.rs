//! Reads an Ansible inventory in its INI form: hosts with their variables, groups and their `:vars`. Out comes where each
//! board is and which target it is; groups of groups and host ranges are refused rather than half understood.

use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    /// As ssh takes it.
    pub to: String,
    pub port: Option<u16>,
    /// `thimble_target`.
    pub target: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file} line {line}: {problem}")]
pub struct InventoryError {
    file: String,
    line: usize,
    problem: String,
}

/// The variables that are read here; others are Ansible's business.
const USED: [&str; 4] = ["ansible_host", "ansible_user", "ansible_port", "thimble_target"];

type Variables = BTreeMap<String, String>;

pub fn read(path: &Path) -> Result<Vec<Host>, InventoryError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| InventoryError {
        file: file.clone(),
        line: 0,
        problem: e.to_string(),
    })?;
    parse(&file, &text)
}

fn parse(file: &str, text: &str) -> Result<Vec<Host>, InventoryError> {
    let mut group = "ungrouped".to_string();
    let mut hosts: Vec<(String, Vec<String>, Variables, usize)> = Vec::new();
    let mut group_variables: BTreeMap<String, Variables> = BTreeMap::new();
    let mut in_variables = false;
    for (at, raw) in text.lines().enumerate() {
        let error = |problem: String| InventoryError {
            file: file.into(),
            line: at + 1,
            problem,
        };
        let line = raw.trim();
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(error("holds a control character".into()));
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            let section = section
                .strip_suffix(']')
                .ok_or_else(|| error("a section needs its ']'".into()))?;
            let (name, kind) = section.split_once(':').unwrap_or((section, ""));
            in_variables = match kind {
                "" => false,
                "vars" => true,
                other => {
                    return Err(error(format!(
                        "sections of kind ':{other}' are not read here; list the hosts"
                    )));
                }
            };
            group = name.trim().to_string();
            continue;
        }
        if in_variables {
            let (key, value) = assignment(line).ok_or_else(|| error("a variable is written name=value".into()))?;
            group_variables.entry(group.clone()).or_default().insert(key, value);
            continue;
        }
        let line = line.split(" #").next().unwrap_or(line);
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_string();
        if name.contains(['[', '=']) {
            return Err(error(format!("'{name}' is no host name; ranges are not read here")));
        }
        let own = words
            .map(|word| assignment(word).ok_or_else(|| error(format!("'{word}' is not name=value"))))
            .collect::<Result<Variables, _>>()?;
        match hosts.iter_mut().find(|h| h.0 == name) {
            Some(known) => {
                known.1.push(group.clone());
                known.2.extend(own);
            }
            None => hosts.push((name, vec![group.clone()], own, at + 1)),
        }
    }
    let all = group_variables.remove("all").unwrap_or_default();
    hosts
        .into_iter()
        .map(|(name, groups, own, line)| {
            // Ansible's order: all, then groups, then the host itself.
            let mut variables = all.clone();
            for group in groups {
                variables.extend(group_variables.get(&group).cloned().unwrap_or_default());
            }
            variables.extend(own);
            let empty = variables
                .iter()
                .find(|(key, value)| USED.contains(&key.as_str()) && value.is_empty());
            if let Some((key, _)) = empty {
                return Err(InventoryError {
                    file: file.into(),
                    line,
                    problem: format!("{name}: {key} has no value"),
                });
            }
            let host = variables.get("ansible_host").unwrap_or(&name);
            let to = match variables.get("ansible_user") {
                Some(user) => format!("{user}@{host}"),
                None => host.clone(),
            };
            let port = variables.get("ansible_port").map(|port| {
                port.parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| InventoryError {
                        file: file.into(),
                        line,
                        problem: format!("ansible_port={port} is no port"),
                    })
            });
            Ok(Host {
                to,
                port: port.transpose()?,
                target: variables.get("thimble_target").cloned(),
                name,
            })
        })
        .collect()
}

fn assignment(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!key.trim().is_empty()).then(|| (key.trim().to_string(), value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_their_groups_variables_and_their_own_win() {
        let text = "lonely\n\n[pis]\nkitchen ansible_host=10.0.0.7 thimble_target=pi-5 # by the window\nattic\n\
            [pis:vars]\nansible_user=pi\nthimble_target=\"pi-4\"\n[all:vars]\nansible_port=2222\n";
        let hosts = parse("x", text).unwrap();
        let told: Vec<_> = hosts
            .iter()
            .map(|h| (h.name.as_str(), h.to.as_str(), h.port, h.target.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                ("lonely", "lonely", Some(2222), None),
                ("kitchen", "pi@10.0.0.7", Some(2222), Some("pi-5")),
                ("attic", "pi@attic", Some(2222), Some("pi-4")),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, line, part) in [
            ("[pis", 1, "']'"),
            ("a\n[x:children]\nb", 2, ":children"),
            ("web[01:50]", 1, "ranges"),
            ("a ansible_port=x", 1, "no port"),
            ("a ansible_port=0", 1, "no port"),
            ("a ansible_port=65536", 1, "no port"),
            ("b\na ansible_host=", 2, "ansible_host has no value"),
            ("a\n[all:vars]\nthimble_target=''", 1, "thimble_target has no value"),
            ("a\u{1b}[31m", 1, "control"),
            ("a ansible_host=\"x y\"", 1, "name=value"),
            ("a oops", 1, "name=value"),
        ] {
            let error = parse("f", text).unwrap_err();
            assert!(error.line == line && error.problem.contains(part), "{error}");
        }
    }
}
