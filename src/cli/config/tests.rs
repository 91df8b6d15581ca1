//! Layers: who wins, and what is said about what does not fit.

use super::*;
use std::path::Path;

const FILE: &str = r#"# mine
[defaults]
limit = "20mbit"
update = true
exclude = ["*.o", "*.tmp"]
timeout = 90

[put]
limit = "10mbit"

[serve]
max-sessions = 5

[host.lab]
address = "lab.example.org:9000"
key-file = "~/lab.key"
limit = "5mbit"

[host.open]
insecure = true
"#;

fn settings(line: &str, variables: &[(&str, &str)], content: &str) -> Result<Parsed, Refused> {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, content).expect("written");
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    parse_with(&arguments, |name| match name {
        file::CONFIG_VARIABLE => Some(path.clone().into()),
        "HOME" => Some("/home/ada".into()),
        _ => variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()),
    })
}

fn failure(line: &str, variables: &[(&str, &str)], content: &str) -> Failure {
    match settings(line, variables, content) {
        Err(Refused::Layer(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn one<'a>(parsed: &'a Parsed, name: &str) -> &'a Setting {
    parsed.settings.iter().find(|s| s.name == name).expect(name)
}

#[test]
fn the_nearest_layer_wins() {
    let env = [("FULMAR_LIMIT", "3mbit")];
    for (line, variables, value, whence) in [
        ("fulmar put x lab", &[][..], "5mbit", "[host.lab]"),
        ("fulmar put x other", &[], "10mbit", "[put]"),
        ("fulmar get other/x .", &[], "20mbit", "[defaults]"),
        ("fulmar put x lab", &env, "3mbit", "FULMAR_LIMIT"),
        ("fulmar put --limit 1mbit x lab", &env, "1mbit", "option"),
        ("fulmar serve", &[], "", "default"),
    ] {
        let parsed = settings(line, variables, FILE).expect(line);
        let limit = one(&parsed, "limit");
        assert_eq!(limit.values.first().map_or("", |v| v.to_str().expect("text")), value, "{line}");
        let origin = match &limit.origin {
            Origin::Default => "default".to_owned(),
            Origin::File { table, .. } => table.clone(),
            Origin::Variable(name) => name.clone(),
            Origin::Option => "option".into(),
        };
        assert_eq!(origin, whence, "{line}");
    }
}

#[test]
fn values_arrive_in_the_command() {
    let parsed = settings("fulmar put x lab:77/in", &[], FILE).expect("valid");
    let Command::Put(args) = &parsed.command else { panic!("a put") };
    assert_eq!(args.paths, ["x", "lab.example.org:77/in"], "the alias is resolved, its port is the user's");
    assert_eq!(args.link.limit.as_deref(), Some("5mbit"));
    assert_eq!(args.link.timeout.as_deref(), Some("90"));
    assert_eq!(args.key.key_file.as_deref(), Some(Path::new("/home/ada/lab.key")));
    assert!(args.sync.update);
    assert_eq!(args.sync.exclude, ["*.o", "*.tmp"]);
    let Origin::File { at, .. } = &one(&parsed, "key-file").origin else { panic!("from the file") };
    assert!(at.ends_with("config.toml:16"), "{at}");
    let parsed = settings("fulmar get lab/a lab:1/b other/c out", &[], FILE).expect("valid");
    let Command::Get(args) = &parsed.command else { panic!("a get") };
    assert_eq!(args.paths, ["lab.example.org:9000/a", "lab.example.org:1/b", "other/c", "out"]);
    let parsed = settings("fulmar serve", &[("FULMAR_READ_ONLY", "yes")], FILE).expect("valid");
    let Command::Serve(args) = &parsed.command else { panic!("a server") };
    assert_eq!((args.max_sessions.as_deref(), args.read_only), (Some("5"), true));
}

#[test]
fn what_contradicts_a_nearer_layer_stays_out() {
    // A key file in the environment, and --insecure on the line, or for the host.
    let env = [("FULMAR_KEY_FILE", "k"), ("FULMAR_VERBOSE", "2")];
    let parsed = settings("fulmar put --insecure -q x h", &env, FILE).expect("no conflict");
    assert_eq!(one(&parsed, "key-file").origin, Origin::Default);
    assert_eq!(one(&parsed, "verbose").origin, Origin::Default);
    let parsed = settings("fulmar put x open", &env, FILE).expect("no conflict");
    assert_eq!(one(&parsed, "key-file").origin, Origin::Variable("FULMAR_KEY_FILE".into()));
    let Command::Put(args) = &parsed.command else { panic!("a put") };
    assert!(!args.key.insecure);
    assert_eq!(args.output.verbosity.verbose, 2);
    // A switch can be turned off by a nearer layer.
    let parsed = settings("fulmar put x h", &[("FULMAR_UPDATE", "0")], FILE).expect("valid");
    let Command::Put(args) = &parsed.command else { panic!("a put") };
    assert!(!args.sync.update);
}

#[test]
fn mistakes_are_named_with_file_line_and_the_nearest_key() {
    for (content, line, words) in [
        ("[defaults]\nlimt = \"1mbit\"\n", 2, "did you mean `limit`?"),
        ("\n\n[puts]\n", 3, "did you mean `put`?"),
        ("limit = \"1mbit\"\n", 1, "outside of any table"),
        ("[defaults]\nkey = \"0123\"\n", 2, "key-file"),
        ("[host.a]\n\naddres = \"x\"\n", 3, "did you mean `address`?"),
        ("[host.a]\naddress = \"x/y\"\n", 2, "HOST:PORT"),
        ("[defaults]\nlimit = true\n", 2, "not true or false"),
        ("[defaults]\nupdate = \"maybe\"\n", 2, "neither true nor false"),
        ("[defaults]\nlimit = [\"1mbit\", \"2mbit\"]\n", 2, "one value"),
        ("[defaults]\nlimit = \n", 2, ""),
        ("[defaults]\nexclude = [[\"x\"]]\n", 2, "list of texts"),
        ("[serve]\nupdate = true\n", 2, "unknown key `update`"),
    ] {
        let failure = if content.starts_with("[serve]") {
            failure("fulmar serve", &[], content)
        } else {
            failure("fulmar put x h", &[], content)
        };
        assert_eq!(failure.exit_code, 2, "{content}");
        assert!(failure.message.contains(&format!("config.toml:{line}: ")), "{}", failure.message);
        assert!(failure.message.contains(words), "{}", failure.message);
        assert!(!failure.message.contains('\n') && !failure.message.contains("0123"), "{}", failure.message);
    }
    let failure = failure("fulmar put x h", &[("FULMAR_UPDATE", "maybe")], "");
    assert!(failure.message.starts_with("FULMAR_UPDATE: "), "{}", failure.message);
}

#[test]
fn where_the_file_is() {
    let at = |variables: &[(&str, &str)]| {
        file::path(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    };
    assert_eq!(at(&[("HOME", "/h")]), Some("/h/.config/fulmar/config.toml".into()));
    assert_eq!(at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), Some("/c/fulmar/config.toml".into()));
    assert_eq!(at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")]), Some("/h/.config/fulmar/config.toml".into()));
    assert_eq!(at(&[("HOME", "/h"), ("FULMAR_CONFIG", "")]), None);
    assert_eq!(at(&[("FULMAR_CONFIG", "x")]), Some("x".into()));
    assert_eq!(at(&[]), None);
    let missing = file::read(Path::new("/nonexistent/x"), true, &known()).expect_err("named, but missing");
    assert!(missing.message.contains("/nonexistent/x"));
    assert_eq!(file::read(Path::new("/nonexistent/x"), false, &known()), Ok(File::default()));
}
