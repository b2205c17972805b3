//! `man`: the manual pages, made of the definition of the command line.

use std::path::Path;

use crate::cli;
use crate::failure::{Failure, Outcome};
use crate::screen::Screen;

/// Writes `byname.1` and a page for each command into a folder, or `byname.1` to standard output.
pub(crate) fn run(screen: &mut Screen, folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(cli::manual()).render(&mut page)?;
        return Ok(screen.raw(&page)?);
    };
    let unwritable = |e: std::io::Error| Failure::System(format!("cannot write to {}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    clap_mangen::generate_to(cli::manual(), folder).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Format;

    #[test]
    fn there_is_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("man1");
        let (mut screen, out, _) = Screen::captured(Format::Table, false);
        run(&mut screen, Some(&folder)).unwrap();
        let count = std::fs::read_dir(&folder).unwrap().count();
        fn pages(command: &clap::Command) -> usize {
            1 + command.get_subcommands().map(pages).sum::<usize>()
        }
        assert_eq!(count, pages(&cli::command()));
        let find = std::fs::read_to_string(folder.join("byname-find.1")).unwrap();
        for part in [".TH byname-find 1", "\\-\\-no\\-start", "byname find /BVODS/QS", "\\-\\-server"] {
            assert!(find.contains(part), "{part}\n{find}");
        }
        run(&mut screen, None).unwrap();
        let page = out.take();
        assert_eq!(page, std::fs::read_to_string(folder.join("byname.1")).unwrap());
        for part in ["Exit status", "BYNAME_SERVER", "byname\\-find(1)"] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        let error = run(&mut screen, Some(&folder.join("byname.1"))).unwrap_err();
        assert_eq!(error.exit_status(), 1);
    }
}
