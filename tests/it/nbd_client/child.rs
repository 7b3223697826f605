//! Servers that are started for one job.

use super::{assert_pattern, once, read};
use diskferry::error::Kind;
use diskferry::nbd::client::{Client, Endpoint, Options};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};

fn child(words: &[&str]) -> Endpoint {
    Endpoint::Child(words.iter().map(|word| (*word).to_owned()).collect())
}

async fn gone(pid: &str) {
    let process = Path::new("/proc").join(pid);
    let wait = async {
        while process.exists() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), wait)
        .await
        .expect("the child ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_serves_by_socket_activation_and_ends_with_its_client() {
    for close in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!(
            "echo $$ >{}; exec nbdkit -f pattern 'size=4M'",
            pid.display()
        );
        let options = Options {
            connections: 2,
            ..once()
        };
        let client = Client::connect(child(&["sh", "-c", &script]), options)
            .await
            .unwrap();
        assert_eq!(client.connections(), 2);
        assert_pattern(&read(&client, 0, 1 << 20).await, 0);
        let pid = fs::read_to_string(&pid).unwrap().trim().to_owned();
        assert!(Path::new("/proc").join(&pid).exists());
        if close {
            client.close().await;
        }
        drop(client);
        gone(&pid).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_nbd_serves_as_a_child_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![9; 1 << 20]).unwrap();
    let words = ["qemu-nbd", "-t", "-f", "raw", disk.to_str().unwrap()];
    let client = Client::connect(child(&words), once()).await.unwrap();
    assert_eq!(read(&client, 4096, 512).await, [9; 512]);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_cannot_serve_is_quoted() {
    for (words, quote) in [
        (vec!["nbdkit", "no-such-plugin"], "no-such-plugin"),
        (vec!["/nonexistent/server"], "/nonexistent/server"),
        (vec!["sh", "-c", "echo reason >&2; exit 3"], "reason"),
    ] {
        let error = Client::connect(child(&words), once()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Io, "{error:?}");
        let line = error.line();
        assert!(line.contains("has ended") && line.contains(quote), "{line}");
    }
    let error = Client::connect(Endpoint::Child(Vec::new()), once())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_dies_is_not_waited_for_until_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("echo $$ >{}; exec nbdkit -f pattern 1M", pid.display());
    let client = Client::connect(child(&["sh", "-c", &script]), Options::default())
        .await
        .unwrap();
    let pid = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let reading = client.read(0, diskferry::buffer::Buffer::unbudgeted(512));
    let error = timeout(Duration::from_secs(20), reading)
        .await
        .expect("no hang")
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.line().contains("signal: 9"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commands_are_two_disks_and_their_words_are_not_shown() {
    let open = |size: &'static str| async move {
        let words = ["nbdkit", "-f", "memory", size];
        Client::connect(child(&words), once()).await.unwrap()
    };
    let (one, same, other) = (open("1M").await, open("1M").await, open("1048576").await);
    assert_eq!(one.identity(), same.identity());
    assert_ne!(one.identity().id, other.identity().id);
    assert!(!one.identity().name.contains("memory"));
}
