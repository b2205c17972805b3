//! What `/proc` tells about processes.

use std::collections::HashMap;

/// All living descendants of a process, zombies left out, parents before their children.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<(u32, bool)>> = HashMap::new();
    for pid in pids() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push((pid, stat.state == 'Z' || stat.state == 'X'));
        }
    }
    let mut found = Vec::new();
    let mut next = vec![of];
    while let Some(parent) = next.pop() {
        for (child, gone) in children.remove(&parent).unwrap_or_default() {
            if !gone {
                found.push(child);
            }
            next.push(child);
        }
    }
    found
}

/// Processes that carry `key=value` in the environment they were started with.
pub(crate) fn with_environment(key: &str, value: &str) -> Vec<u32> {
    let entry = format!("{key}={value}");
    pids()
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|bytes| bytes.split(|b| *b == 0).any(|e| e == entry.as_bytes()))
        })
        .collect()
}

/// The session that a process belongs to, unless it is gone or a zombie.
pub(crate) fn session(pid: u32) -> Option<u32> {
    stat(pid).filter(|s| s.state != 'Z' && s.state != 'X').map(|s| s.session)
}

/// A process at one moment.
pub(crate) struct Stat {
    state: char,
    pub(crate) parent: u32,
    session: u32,
    /// When it began, in ticks since the host did.
    pub(crate) began: u64,
}

fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` that are wanted here. The second field is the program's name in parentheses and may
/// hold anything, so the rest is counted from the last parenthesis.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    let text = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    let mut words = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    let parent = words.next()?.parse().ok()?;
    let session = words.nth(1)?.parse().ok()?;
    // Field 22; the session is field 6.
    let began = words.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let own = std::process::id();
        let stat = stat(own).unwrap();
        assert!(descendants(stat.parent).contains(&own));
        assert_eq!(session(own), Some(stat.session));
        assert!(session(u32::MAX).is_none());
    }
}
