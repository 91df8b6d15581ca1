//! Files that go there and come back through errors.

use crate::support::{Lab, need, noise, sha256sum, works};

#[test]
fn comes_back_as_received_name_with_three_equal_digests() {
    need!(works("sha256sum", &["--version"]), "needs sha256sum");
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let content = noise(1, 1_500_000);
    let file = lab.write("photo.jpg", &content);
    lab.write("empty", "");
    let back = "loss=10%,corrupt=10%,dup=2%,seed=5";
    let object = lab.json(&["echo", "--sim-back", back, "photo.jpg", "empty", &server.address], 0);
    let digest = sha256sum(&file);
    let photo = object["files"].as_array().expect("a list").iter().find(|f| f["path"] == "photo.jpg");
    for field in ["sha256", "server_sha256", "received_sha256"] {
        assert_eq!(photo.expect("it is listed")[field], digest, "{field}");
    }
    assert!(lab.read("received_photo.jpg") == content);
    assert_eq!(sha256sum(&lab.path("received_photo.jpg")), digest);
    assert_eq!(lab.read("received_empty"), b"");
    // The corrupted packets were real ones.
    assert!(object["packets_corrupted"].as_u64().expect("a count") > 0);
    assert!(lab.visible("drop").is_empty(), "the server's copy is removed");
    server.logs(&["impairing the way back", "corrupt=10%"]);
    server.stop();
    assert!(lab.names("drop").is_empty(), "and so is its working space");
}

#[test]
fn people_see_the_comparison() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    lab.write("a", "content");
    let output = lab.run(&["echo", "a", &server.address], 0);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for word in ["a: equal", "original", "server", "received"] {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

#[test]
fn keep_leaves_the_copy_under_its_own_name() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let content = noise(2, 300_000);
    lab.write("a", &content);
    lab.run(&["echo", "-q", "--keep", "a", &server.address], 0);
    assert!(lab.read("drop/a") == content && lab.read("received_a") == content);
    // Again: it is there already, at both ends.
    lab.fails(&["echo", "--keep", "a", &server.address], 5, &["received_a", "--overwrite always"]);
    std::fs::remove_file(lab.path("received_a")).expect("removed");
    lab.fails(&["echo", "--keep", "a", &server.address], 5, &["--overwrite always"]);
    assert!(!lab.has("received_a"));
    lab.run(&["echo", "-q", "--keep", "--overwrite", "always", "a", &server.address], 0);
    assert!(lab.read("received_a") == content);
}

#[test]
fn a_server_may_refuse_to_impair() {
    let lab = Lab::new();
    let server = lab.serve(&["--no-echo-sim"]);
    lab.write("a", "content");
    lab.fails(&["echo", "a", &server.address], 5, &["does not impair", "--sim-back"]);
    assert!(!lab.has("received_a") && lab.visible("drop").is_empty());
    // Without errors it may be had.
    lab.run(&["echo", "-q", "--sim-back", "none", "a", &server.address], 0);
    assert_eq!(lab.read("received_a"), b"content");
}
