//! Reading the log files of a service's instances, and following them.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use byname_api::agent::Report;
use byname_api::{Code, Error};
use tokio::sync::mpsc;

use crate::agent::Inner;
use crate::folder::{self, Folder};

/// The largest piece of a log in one report.
const CHUNK: usize = 64 << 10;
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Sends the log of a service, the oldest instance first; then what comes, when it is to be followed.
pub(crate) async fn send(
    agent: Arc<Inner>,
    reports: mpsc::Sender<Report>,
    request: u64,
    service: u64,
    tail: Option<u32>,
    follow: bool,
) {
    let piece = |bytes| Report::Log { request, bytes, done: false, error: None };
    let last = |error| Report::Log { request, bytes: Vec::new(), done: true, error };
    let mut reader = match tokio::task::spawn_blocking({
        let agent = agent.clone();
        move || Reader::open(&agent, service, tail)
    })
    .await
    {
        Ok(Some(reader)) => reader,
        Ok(None) if follow => Reader::default(),
        Ok(None) => {
            let error = Error::new(Code::NotFound, "nothing has been logged: the service was not started on this host");
            let _ = reports.send(last(Some(error))).await;
            return;
        }
        Err(error) => {
            let _ = reports.send(last(Some(Error::internal(error.to_string())))).await;
            return;
        }
    };
    loop {
        let read = tokio::task::spawn_blocking({
            let agent = agent.clone();
            move || {
                let bytes = reader.read(&agent, service, follow);
                (reader, bytes)
            }
        });
        let Ok((back, bytes)) = read.await else { return };
        reader = back;
        if !bytes.is_empty() {
            if reports.send(piece(bytes)).await.is_err() {
                return;
            }
        } else if follow {
            tokio::time::sleep(LOOK).await;
            if reports.is_closed() {
                return;
            }
        } else {
            let _ = reports.send(last(None)).await;
            return;
        }
    }
}

/// Where a reader stands in the row of files.
#[derive(Default)]
struct Reader {
    /// Files yet to be read, the oldest first.
    files: VecDeque<Source>,
    /// The newest instance that was seen.
    newest: Option<std::path::PathBuf>,
}

struct Source {
    file: File,
    at: u64,
    /// The instance's folder, when this is its `log`, which may be put aside and begun again.
    folder: Option<Folder>,
}

impl Reader {
    /// Opens what is there; none when the service has no instance here.
    fn open(agent: &Inner, service: u64, tail: Option<u32>) -> Option<Reader> {
        let folders = folders(agent, service);
        let newest = Some(folders.last()?.path.clone());
        let mut files: VecDeque<Source> = folders.into_iter().flat_map(sources).collect();
        if let Some(lines) = tail {
            skip(&mut files, lines as usize);
        }
        Some(Reader { files, newest })
    }

    /// The next bytes; none when there is nothing more at the moment.
    fn read(&mut self, agent: &Inner, service: u64, follow: bool) -> Vec<u8> {
        loop {
            if self.files.is_empty() && !(follow && self.find_newer(agent, service)) {
                return Vec::new();
            }
            let more = self.files.len() > 1;
            let Some(source) = self.files.front_mut() else { return Vec::new() };
            let mut bytes = vec![0; CHUNK];
            match source.file.read_at(&mut bytes, source.at) {
                Ok(n @ 1..) => {
                    source.at += n as u64;
                    bytes.truncate(n);
                    return bytes;
                }
                _ if more => {
                    self.files.pop_front();
                }
                _ if !follow => return Vec::new(),
                _ => {
                    let begun_again = source.folder.as_ref().and_then(|folder| source.renewed(folder));
                    if let Some(sources) = begun_again {
                        self.files.pop_front();
                        self.files.extend(sources);
                    } else if !self.find_newer(agent, service) {
                        return Vec::new();
                    }
                }
            }
        }
    }

    /// Adds the files of instances that were started since.
    fn find_newer(&mut self, agent: &Inner, service: u64) -> bool {
        let folders = folders(agent, service);
        let known = |f: &Folder| self.newest.as_ref().is_some_and(|n| n.file_name() == f.path.file_name());
        let after = folders.iter().rposition(known).map_or(0, |at| at + 1);
        let newer: Vec<Source> = folders.iter().skip(after).cloned().flat_map(sources).collect();
        if newer.is_empty() {
            return false;
        }
        self.newest = folders.last().map(|f| f.path.clone());
        self.files.extend(newer);
        true
    }
}

impl Source {
    fn open(path: &Path, folder: Option<Folder>) -> Option<Source> {
        Some(Source { file: File::open(path).ok()?, at: 0, folder })
    }

    /// The files that follow, when this one was put aside: the rest of it was read already.
    fn renewed(&self, folder: &Folder) -> Option<Vec<Source>> {
        let own = self.file.metadata().ok()?.ino();
        let next = Source::open(&folder.path.join("log"), Some(folder.clone()))?;
        if next.file.metadata().ok()?.ino() == own {
            return None;
        }
        // When even `log.1` is another file, the log went round faster than it was read.
        let aside =
            Source::open(&folder.path.join("log.1"), None).filter(|a| a.file.metadata().is_ok_and(|m| m.ino() != own));
        Some(aside.into_iter().chain([next]).collect())
    }
}

/// The service's instance folders, the oldest first.
fn folders(agent: &Inner, service: u64) -> Vec<Folder> {
    // In this order, because a folder moves from the first to the second.
    let live: Vec<Folder> = agent.of_service(service).into_iter().map(|id| Folder::of(&agent.config.dir, id)).collect();
    let mut folders = folder::ended(&agent.config.dir, service);
    folders.extend(live.into_iter().filter(|folder| folder.path.exists()));
    folders
}

fn sources(folder: Folder) -> Vec<Source> {
    let older = Source::open(&folder.path.join("log.1"), None);
    let newer = Source::open(&folder.path.join("log"), Some(folder));
    older.into_iter().chain(newer).collect()
}

/// Leaves only the last lines, counted over all files.
fn skip(files: &mut VecDeque<Source>, lines: usize) {
    let mut left = lines;
    for index in (0..files.len()).rev() {
        let Some(source) = files.get_mut(index) else { return };
        if let Ok(Some(at)) = last_lines(&source.file, &mut left) {
            source.at = at;
            files.drain(..index);
            return;
        }
    }
}

/// Where the last `left` lines of a file begin; none when the file has fewer, and `left` is reduced by them.
fn last_lines(file: &File, left: &mut usize) -> std::io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    let size = end;
    if *left == 0 {
        return Ok(Some(size));
    }
    let mut block = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let part = block.get_mut(..(end - start) as usize).unwrap_or_default();
        file.read_exact_at(part, start)?;
        for (at, byte) in part.iter().enumerate().rev() {
            // A line feed ends the line before it: the one at the very end begins no line.
            if *byte == b'\n' && start + at as u64 + 1 < size {
                *left -= 1;
                if *left == 0 {
                    return Ok(Some(start + at as u64 + 1));
                }
            }
        }
        end = start;
    }
    if size > 0 {
        *left -= 1;
        if *left == 0 {
            return Ok(Some(0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_over_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (a, b, c) = (write("a", "1\n2\n3\n"), write("b", ""), write("c", "4\n5"));
        let rest = |lines| {
            let mut files: VecDeque<Source> = [&a, &b, &c].into_iter().filter_map(|p| Source::open(p, None)).collect();
            skip(&mut files, lines);
            let mut text = String::new();
            for source in files {
                let mut bytes = vec![0; 100];
                let n = source.file.read_at(&mut bytes, source.at).unwrap();
                text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
            }
            text
        };
        assert_eq!(rest(0), "");
        assert_eq!(rest(1), "5");
        assert_eq!(rest(2), "4\n5");
        assert_eq!(rest(3), "3\n4\n5");
        assert_eq!(rest(5), "1\n2\n3\n4\n5");
        assert_eq!(rest(100), "1\n2\n3\n4\n5");
    }
}
