//! What a user may have meant by a name that is none: the nearest of those there are.

/// The known name nearest to `word`, where it is near enough to be a slip: a letter too many, too few, wrong or swapped with its
/// neighbor, two in a longer word; or the same but for case, dashes, dots and underscores.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> Vec<char> {
        let kept = text.chars().filter(|c| c.is_alphanumeric()).take(LONGEST);
        kept.flat_map(char::to_lowercase).collect()
    };
    let word = plain(word);
    let (distance, name) = known
        .into_iter()
        .map(|name| (distance(&word, &plain(name)), name))
        .min_by_key(|&(distance, _)| distance)?;
    let most = match word.len() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    (distance <= most && !word.is_empty()).then_some(name)
}

/// No name is longer; what is typed may be.
const LONGEST: usize = 64;

/// Insertions, deletions, replacements and swaps of neighbors that make one word of the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let known = ["pi-4", "pi-5", "pi-zero-2w", "jetson-nano", "seq", "threads", "socket"];
        let cases = [
            ("pi4", Some("pi-4")),
            ("PI_4", Some("pi-4")),
            ("pi-zero2w", Some("pi-zero-2w")),
            ("jetson-naon", Some("jetson-nano")),
            ("sqe", Some("seq")),
            ("thread", Some("threads")),
            ("sockte", Some("socket")),
            ("orangepi", None),
            ("x", None),
            ("", None),
        ];
        for (word, want) in cases {
            assert_eq!(nearest(word, known), want, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1_000_000), known), None);
    }
}
