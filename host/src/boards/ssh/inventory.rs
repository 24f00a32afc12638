//! Reads an Ansible inventory in its INI form: hosts with their variables, groups and their `:vars`. Out comes where each
//! board is and which target it is; groups of groups and host ranges are refused rather than half understood.

use std::collections::BTreeMap;
use std::path::Path;
use thimble_shared::files;
use thimble_shared::terminal::acts;

/// One board of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As the inventory calls it.
    pub name: String,
    /// As ssh takes it.
    pub to: String,
    /// `ansible_port`; `None` leaves it to ssh.
    pub port: Option<u16>,
    /// `thimble_target`.
    pub target: Option<String>,
}

/// Why an inventory cannot be read.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file cannot be read.
    #[error("{file}: {cause}")]
    Io {
        /// The inventory.
        file: String,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A line says what thimble cannot follow.
    #[error("{file} line {line}: {problem}")]
    Line {
        /// The inventory.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// The variables that are read here; others are Ansible's business. Of two names the older one, which Ansible puts first,
/// wins.
const HOST: [&str; 2] = ["ansible_ssh_host", "ansible_host"];
const USER: [&str; 2] = ["ansible_ssh_user", "ansible_user"];
const PORT: [&str; 2] = ["ansible_ssh_port", "ansible_port"];
const TARGET: [&str; 1] = ["thimble_target"];
/// Options for ssh are not taken from here, and a connection without them would be another one.
const OPTIONS: [&str; 3] = ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"];
/// A group's rank among those a host is in.
const PRIORITY: &str = "ansible_group_priority";

const UNGROUPED: &str = "ungrouped";

type Variables = BTreeMap<String, String>;

/// The hosts of an inventory, in the file's order.
///
/// # Errors
/// A file that cannot be read, or a line that says what thimble cannot follow.
pub fn read(path: &Path) -> Result<Vec<Host>, InventoryError> {
    let file = path.display().to_string();
    match files::read_text(path) {
        Ok(text) => parse(&file, &text),
        Err(cause) => Err(InventoryError::Io { file, cause }),
    }
}

/// A host as the lines say it, before the variables of its groups are looked up.
struct Listed {
    name: String,
    groups: Vec<String>,
    own: Variables,
    /// The line that names it first, from 1.
    line: usize,
}

/// What the lines of an inventory say, so far.
struct Lines {
    /// The section that a line belongs to, and whether it lists variables.
    group: String,
    in_variables: bool,
    hosts: Vec<Listed>,
    group_variables: BTreeMap<String, Variables>,
}

fn parse(file: &str, text: &str) -> Result<Vec<Host>, InventoryError> {
    let error = |line: usize, problem: String| InventoryError::Line {
        file: file.into(),
        line,
        problem,
    };
    if let Some((line, form)) = other_form(file, text) {
        return Err(error(
            line,
            format!(
                "this is {form}; what is read is Ansible's INI form: a host a line, as in \"kitchen ansible_host=192.168.1.7 \
                 ansible_user=pi thimble_target=pi-4\", groups under [name]"
            ),
        ));
    }
    let mut lines = Lines {
        group: UNGROUPED.to_string(),
        in_variables: false,
        hosts: Vec::new(),
        group_variables: BTreeMap::new(),
    };
    for (at, raw) in text.lines().enumerate() {
        lines
            .read(raw.trim(), at + 1)
            .map_err(|problem| error(at + 1, problem))?;
    }
    let all = lines.group_variables.remove("all").unwrap_or_default();
    let hosts = std::mem::take(&mut lines.hosts).into_iter();
    hosts
        .map(|host| {
            let line = host.line;
            let name = host.name.clone();
            let found = lines
                .variables(&all, &host)
                .and_then(|variables| resolve(host.name, &variables));
            found.map_err(|problem| error(line, format!("{name}: {problem}")))
        })
        .collect()
}

/// The line that tells that an inventory is in another of Ansible's forms, and which: YAML begins with `---` or with a key alone,
/// what `ansible-inventory --list` prints is JSON.
fn other_form(file: &str, text: &str) -> Option<(usize, &'static str)> {
    let said = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with(['#', ';']);
    let (at, first) = text.lines().map(str::trim).enumerate().find(said)?;
    let key = first.strip_suffix(':');
    let alone = key.is_some_and(|key| !key.is_empty() && !key.contains([' ', '=', '[', ':']));
    let named = |end: &str| Path::new(file).extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    let form = match first {
        _ if first.starts_with('{') => "JSON",
        _ if first == "---" || alone || named("yml") || named("yaml") => "YAML",
        _ => return None,
    };
    Some((at + 1, form))
}

impl Lines {
    /// Takes in one line, without the white space around it. An error says what is wrong, not where.
    fn read(&mut self, line: &str, number: usize) -> Result<(), String> {
        if line.chars().any(|c| acts(c) && c != '\t') {
            return Err("holds a control character or one that changes the text direction".into());
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Ok(());
        }
        if let Some(section) = line.strip_prefix('[') {
            return self.section(section);
        }
        match self.in_variables {
            true => self.variable(line),
            false => self.host(line, number),
        }
    }

    fn section(&mut self, section: &str) -> Result<(), String> {
        let section = section.strip_suffix(']').ok_or("a section needs its ']'")?;
        let (name, kind) = section.split_once(':').unwrap_or((section, ""));
        self.in_variables = match kind {
            "" => false,
            "vars" => true,
            other => return Err(format!("sections of kind ':{other}' are not read here; list the hosts")),
        };
        self.group = name.trim().to_string();
        Ok(())
    }

    fn variable(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = assignment(line).ok_or("a variable is written name=value")?;
        // The rest of the line is the value, quotes round all of it are not.
        let value = match value.starts_with(['"', '\'']) {
            true => match &words(&value)?[..] {
                [whole] => whole.clone(),
                _ => return Err(format!("{key}: quotes stand round the whole value")),
            },
            false => value,
        };
        self.group_variables
            .entry(self.group.clone())
            .or_default()
            .insert(key, value);
        Ok(())
    }

    fn host(&mut self, line: &str, number: usize) -> Result<(), String> {
        let mut words = words(line)?.into_iter();
        let name = words.next().unwrap_or_default();
        // White space gets here by way of quotes and backslashes.
        if name.contains(['[', '=']) || name.contains(char::is_whitespace) {
            return Err(format!("{name:?} is no host name; ranges are not read here"));
        }
        let mut own = Variables::new();
        let name = match name.split_once(':') {
            // With more than one colon it is an address of IPv6.
            Some((host, port)) if !port.contains(':') => {
                own.insert(PORT[1].into(), port.into());
                host.to_string()
            }
            _ => name,
        };
        for word in words {
            own.extend([assignment(&word).ok_or_else(|| format!("'{word}' is not name=value"))?]);
        }
        let group = self.group.clone();
        match self.hosts.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.groups.push(group);
                known.own.extend(own);
            }
            None => self.hosts.push(Listed {
                name,
                groups: vec![group],
                own,
                line: number,
            }),
        }
        Ok(())
    }

    /// A host's variables in Ansible's order: all, then groups by priority and name, the later over the earlier, then the host
    /// itself. Only a host that is in no other group is ungrouped.
    fn variables(&self, all: &Variables, host: &Listed) -> Result<Variables, String> {
        let listed = host.groups.iter().any(|g| g != UNGROUPED);
        let mut ranked = Vec::new();
        for group in host.groups.iter().filter(|group| !listed || *group != UNGROUPED) {
            let priority = self.group_variables.get(group).and_then(|v| v.get(PRIORITY));
            let rank = priority.map_or(Ok(1), |text| text.parse::<i64>());
            ranked.push((
                rank.map_err(|_| format!("{PRIORITY} of its group {group} is no number"))?,
                group,
            ));
        }
        ranked.sort();
        let mut variables = all.clone();
        for (_, group) in ranked {
            variables.extend(self.group_variables.get(group).cloned().unwrap_or_default());
        }
        variables.extend(host.own.clone());
        Ok(variables)
    }
}

/// The host of a name and its variables.
fn resolve(name: String, variables: &Variables) -> Result<Host, String> {
    let used = [&HOST[..], &USER, &PORT, &TARGET].concat();
    let unfit = |value: &str| value.is_empty() || value.chars().any(acts);
    let unfit = variables
        .iter()
        .find(|(key, value)| used.contains(&key.as_str()) && unfit(value));
    if let Some((key, value)) = unfit {
        return Err(match value.is_empty() {
            true => format!("{key} has no value"),
            false => format!("{key} has a value with a tab in it"),
        });
    }
    if let Some(key) = OPTIONS.into_iter().find(|key| variables.contains_key(*key)) {
        return Err(format!(
            "{key} is not read here; take it out and put the options into an ssh configuration (--ssh-config)"
        ));
    }
    let get = |names: &[&str]| names.iter().find_map(|name| variables.get(*name));
    let host = get(&HOST).unwrap_or(&name);
    let to = match get(&USER) {
        Some(user) => format!("{user}@{host}"),
        None => host.clone(),
    };
    let port = get(&PORT).map(|port| {
        let number = port.parse().ok().filter(|port| *port > 0);
        number.ok_or_else(|| format!("{port:?} is no port"))
    });
    Ok(Host {
        to,
        port: port.transpose()?,
        target: get(&TARGET).cloned(),
        name,
    })
}

fn assignment(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.trim().is_empty()).then(|| (key.trim().to_string(), value.trim().to_string()))
}

/// The words of a host's line, as Ansible parts it (Python's shlex): blanks part words, unless they stand in quotes or after a
/// backslash; in double quotes a backslash means something before a quote and a backslash; # begins a comment.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut left = line.chars();
    while let Some(c) = left.next() {
        match c {
            '#' => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => word
                .get_or_insert_default()
                .push(left.next().ok_or("a backslash stands at its end")?),
            quote @ ('"' | '\'') => {
                let word = word.get_or_insert_default();
                loop {
                    match left.next().ok_or("a quote is not closed")? {
                        c if c == quote => break,
                        '\\' if quote == '"' => match left.next().ok_or("a quote is not closed")? {
                            c @ ('"' | '\\') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
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
    fn yaml_and_json_are_named() {
        for (file, text, want) in [
            (
                "hosts",
                "---\nall:\n  hosts:\n",
                "hosts line 1: this is YAML; what is read is Ansible's INI form",
            ),
            (
                "hosts",
                "# boards\n\nall:\n  hosts:\n    a:\n",
                "hosts line 3: this is YAML",
            ),
            ("hosts.yml", "a: {}\n", "this is YAML"),
            ("hosts", "{\"_meta\": {}}", "this is JSON"),
        ] {
            let error = parse(file, text).err().unwrap().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(parse("hosts", "fe80::1\n[pis]\na ansible_port=22\n").unwrap().len(), 2);
    }

    #[test]
    fn words_are_parted_as_ansible_parts_them() {
        let host = |line: &str| parse("x", line).unwrap().remove(0).to;
        assert_eq!(host("a note=\"was ansible_host=evil\""), "a");
        assert_eq!(
            host("a note='ansible_host=evil' ansible_host=b# ansible_host=evil"),
            "b"
        );
        for (line, expected) in [
            (r#"a 'b c' "d\"e\\f\g" h\ i"#, vec!["a", "b c", r#"d"e\f\g"#, "h i"]),
            ("x=''y \"\"  z", vec!["x=y", "", "z"]),
            ("  # all of it", vec![]),
        ] {
            assert_eq!(words(line).unwrap(), expected);
        }
    }

    #[test]
    fn variables_win_in_ansibles_order() {
        let told = |text: &str| {
            let host = parse("x", text).unwrap().remove(0);
            (host.to, host.port, host.target.unwrap_or_default())
        };
        // Groups by name, not by their place in the file.
        let groups = "[z]\na\n[b]\na\n[z:vars]\nthimble_target=z\n[b:vars]\nthimble_target=b\nansible_user=u\n";
        assert_eq!(told(groups), ("u@a".into(), None, "z".into()));
        let ranked = format!("{groups}ansible_group_priority=10\n");
        assert_eq!(told(&ranked).2, "b");
        let older = "a:2022 ansible_host=h ansible_ssh_host=s ansible_ssh_user=v ansible_user=w\n";
        assert_eq!(told(older), ("v@s".into(), Some(2022), String::new()));
        assert_eq!(told("a:2022 ansible_port=23\n").1, Some(23));
        assert_eq!(told("fe80::1\n"), ("fe80::1".into(), None, String::new()));
        // In a group it is no longer ungrouped.
        assert_eq!(told("a\n[g]\na\n[ungrouped:vars]\nansible_user=x\n").0, "a");
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
            ("\"a\\\tb\"", 1, "no host name"),
            ("a ansible_host='b\tc'", 1, "a tab in it"),
            ("a note=\"x y", 1, "quote is not closed"),
            ("a note=x\\", 1, "backslash"),
            ("a\u{202e}b", 1, "direction"),
            ("a\n[all:vars]\nnote='x' y", 3, "round the whole value"),
            (
                "a ansible_ssh_common_args=\"-o ProxyJump=bastion\"",
                1,
                "ansible_ssh_common_args is not read here",
            ),
            ("a oops", 1, "name=value"),
            ("a:x", 1, "no port"),
            ("a ansible_ssh_host=", 1, "no value"),
            ("[g]\na\n[g:vars]\nansible_group_priority=high", 2, "is no number"),
        ] {
            let error = parse("f", text).unwrap_err();
            assert!(
                matches!(&error, InventoryError::Line { line: at, problem, .. } if *at == line && problem.contains(part)),
                "{error}"
            );
        }
    }
}
