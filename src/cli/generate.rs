//! Role: `fulmar completions` and `fulmar man`: what shells and `man` want to know, from the definition of the arguments.
//! Owns: nothing.
//! Implements: `fulmar completions --help`.

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::exit::{self, Failure};
use super::terminal;
use clap::{Command, CommandFactory};
use clap_mangen::{Man, roff};
use std::io;
use std::path::Path;

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut with_paths(Cli::command()), "fulmar", &mut script);
    Ok(if terminal::stdout(&script) { exit::DONE } else { exit::OTHER })
}

/// The lists of sources and target are one hidden argument for clap; shells may complete files there all the same.
fn with_paths(mut command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| {
            sub.mut_args(|arg| {
                let is_list = arg.is_positional() && arg.is_hide_set();
                if is_list { arg.hide(false).value_hint(clap::ValueHint::AnyPath) } else { arg }
            })
        });
    }
    command
}

/// Writes one page for the program and one for each command.
pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    let mut command = Cli::command();
    command.build();
    write_page(&args.dir, "fulmar", &command)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_page(&args.dir, &format!("fulmar-{}", sub.get_name()), sub)?;
    }
    Ok(exit::DONE)
}

fn write_page(dir: &Path, name: &str, command: &Command) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let page = page(name, command).map_err(|error| Failure::io("render", &path, &error))?;
    std::fs::write(&path, page).map_err(|error| Failure::io("write", &path, &error))
}

fn page(name: &str, command: &Command) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .source(format!("fulmar {}", env!("CARGO_PKG_VERSION")))
        .manual("User commands");
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    // These texts are laid out already.
    let mut extra = roff::Roff::new();
    if let Some(text) = command.get_after_help() {
        extra.control("SH", ["NOTES AND EXAMPLES"]);
        extra.control("nf", []);
        for line in text.to_string().lines() {
            extra.text([roff::roman(line)]);
        }
        extra.control("fi", []);
    }
    extra.control("SH", ["SEE ALSO"]);
    extra.text([roff::roman(if name == "fulmar" { "fulmar-put(1), fulmar-serve(1)" } else { "fulmar(1)" })]);
    extra.to_writer(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_script() {
        let dir = tempfile::tempdir().expect("a directory");
        man(&ManArgs { dir: dir.path().into() }).expect("written");
        let put = std::fs::read_to_string(dir.path().join("fulmar-put.1")).expect("there");
        for words in ["fulmar put", "SRC", "overwrite", "fulmar put a.iso server.org/b.iso", ".nf"] {
            assert!(put.contains(words), "`{words}` is missing in:\n{put}");
        }
        assert!(dir.path().join("fulmar.1").exists());
        assert!(!dir.path().join("fulmar-man.1").exists(), "a hidden command");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut with_paths(Cli::command()), "fulmar", &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            assert!(script.contains("overwrite") && script.contains("keygen"), "{shell}");
        }
    }
}
