//! What is divided among workers, and what is refused.

use super::*;
use crate::cli::args::{Cli, Command};
use clap::Parser;

fn serve(options: &[&str]) -> ServeArgs {
    match Cli::try_parse_from(["fulmar", "serve"].iter().chain(options)).expect("clap takes it").command {
        Command::Serve(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_number_of_workers_has_bounds() {
    assert_eq!(count(&serve(&[])), Ok(1));
    assert_eq!(count(&serve(&["--workers", "128"])), Ok(128));
    for bad in ["0", "129", "257", "-1", "x", ""] {
        let failure = count(&serve(&[&format!("--workers={bad}")])).expect_err(bad);
        assert_eq!(failure.exit_code, 2);
        assert!(failure.message.starts_with("--workers: "), "{}", failure.message);
    }
    assert_eq!(own_place(&serve(&["--workers", "4", "--worker", "3"])), Ok(Some(Place { index: 3, of: 4 })));
    assert!(own_place(&serve(&["--workers", "4", "--worker", "4"])).is_err());
    assert!(own_place(&serve(&["--worker", "x"])).is_err());
}

#[test]
fn what_all_have_together_is_divided_without_a_rest() {
    let shares: Vec<ServerConfig> = (0..3)
        .map(|index| {
            let mut config = ServerConfig {
                max_sessions: 8,
                total_limit_bytes_per_sec: Some(3_000_000),
                ..ServerConfig::default()
            };
            divide(&mut config, Place { index, of: 3 }).expect("enough for all");
            config
        })
        .collect();
    assert_eq!(shares.iter().map(|c| c.max_sessions).collect::<Vec<_>>(), [3, 3, 2]);
    assert!(shares.iter().all(|c| c.total_limit_bytes_per_sec == Some(1_000_000)));
    let mut config = ServerConfig { max_sessions: 2, ..ServerConfig::default() };
    assert_eq!(divide(&mut config, Place { index: 0, of: 3 }).expect_err("too few").exit_code, 2);
    assert_eq!(check(&serve(&["--quota", "1GB"]), 2).expect_err("not kept").exit_code, 2);
    assert_eq!(check(&serve(&["--quota", "1GB"]), 1), Ok(()));
}

#[test]
fn ports_and_traces_are_told_apart() {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let place = Place { index: 2, of: 4 };
    assert_eq!(own_port(at(5771), place), Ok(at(5773)));
    assert_eq!(own_port(at(0), place), Ok(at(0)));
    assert_eq!(own_port(at(65_534), place).expect_err("no such port").exit_code, 2);
    assert_eq!(own_trace(Path::new("/t/serve.sqlog"), place), Path::new("/t/serve-worker2.sqlog"));
    assert_eq!(own_trace(Path::new("x"), place), Path::new("x-worker2"));
    assert_eq!(own_trace(Path::new("x.y"), Place::default()), Path::new("x.y"));
}
