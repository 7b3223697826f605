//! Who asks, and that secrets stay where they belong.

use super::{REFUSED, USAGE, copy, web};
use crate::rig::{Running, Web, assert_same_bytes};
use std::fs;

const RULES: &str = r#"
    location = /disk { auth_basic "images"; auth_basic_user_file $DIR/users; }
"#;

#[test]
fn a_password_comes_from_a_file_or_the_environment_and_never_from_the_url() {
    let (room, web) = web(RULES);
    fs::write(web.file("../users"), "me:{PLAIN}s3cret\n").unwrap();
    fs::write(room.path("password"), "s3cret\n").unwrap();
    let (url, target) = (web.url("disk"), room.path("copy"));

    room.diskferry(copy(&url, &target, &[]))
        .fails(REFUSED, &["401", "--http-user"]);
    let inside = url.replace("http://", "http://me:s3cret@");
    let outcome = room.diskferry(copy(&inside, &target, &[]));
    let outcome = outcome.fails(USAGE, &["--http-password-file"]);
    assert!(!outcome.stderr.contains("s3cret"), "{}", outcome.stderr);
    let user = ["--http-user", "me"];
    room.diskferry(copy(&url, &target, &user))
        .fails(USAGE, &["no password", "DISKFERRY_HTTP_PASSWORD"]);
    assert!(!target.exists());

    let mut command = room.command(copy(&url, &target, &user));
    command.env("DISKFERRY_HTTP_PASSWORD", "wrong");
    let outcome = Running::start(command).wait().fails(REFUSED, &["401"]);
    assert!(!outcome.stderr.contains("wrong"), "{}", outcome.stderr);
    let mut command = room.command(copy(&url, &target, &user));
    command.env("DISKFERRY_HTTP_PASSWORD", "s3cret");
    Running::start(command).wait().ok();
    assert_same_bytes(&web.file("disk"), &target);
    let password = room.path("password").display().to_string();
    let named = [&user[..], &["--http-password-file", &password]].concat();
    room.diskferry(copy(&url, &room.path("again"), &named)).ok();
}

#[test]
fn headers_come_from_a_file_and_are_for_one_host_only() {
    let (room, elsewhere) = web("");
    let away = format!(
        "location = /away {{ return 302 {}; }}",
        elsewhere.url("disk").replace("127.0.0.1", "localhost")
    );
    let home = Web::with(&away);
    fs::copy(elsewhere.file("disk"), home.file("disk")).unwrap();
    fs::write(room.path("headers"), "# ours\nX-Token: t0ken\n").unwrap();
    let headers = room.path("headers").display().to_string();
    let more = ["--http-header-file", headers.as_str()];
    for name in ["disk", "away"] {
        let target = room.path(name);
        let outcome = room.diskferry(copy(&home.url(name), &target, &more)).ok();
        assert!(!outcome.stderr.contains("t0ken"));
        assert_same_bytes(&elsewhere.file("disk"), &target);
    }
    assert!(home.served().iter().all(|it| it.token == "t0ken"));
    let there = elsewhere.served();
    assert!(
        there.len() > 10 && there.iter().all(|it| it.token == "-"),
        "{there:?}"
    );
    fs::write(room.path("headers"), "t0ken\n").unwrap();
    let outcome = room.diskferry(copy(&home.url("disk"), &room.path("x"), &more));
    let outcome = outcome.fails(USAGE, &["headers line 1"]);
    assert!(!outcome.stderr.contains("t0ken"), "{}", outcome.stderr);
}
