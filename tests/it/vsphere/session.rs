//! Sessions that end, and that are ended.

use super::{address, machine, session, wait};
use crate::rig::{PASSWORD, Proxy, Room, To, Vcenter};
use diskferry::error::Kind;
use diskferry::secret::Secret;
use diskferry::vsphere::locator::Locator;
use diskferry::vsphere::session::Session;
use diskferry::vsphere::soap::calls;
use diskferry::vsphere::soap::fault;
use futures_util::future::join_all;
use rustix::process::Signal;
use std::thread;
use std::time::Duration;
use tokio::time::sleep;

#[test]
fn a_session_that_ended_is_begun_again_once_for_all_who_notice() {
    let vcenter = Vcenter::new(&["1M"]);
    wait(async {
        let (machine, _dir) = machine(&vcenter).await;
        let before: u32 = vcenter.tell("calls Login").parse().unwrap();
        vcenter.tell("expire");
        let looks = join_all((0..8).map(|_| machine.power())).await;
        assert!(looks.iter().all(Result::is_ok), "{looks:?}");
        let after: u32 = vcenter.tell("calls Login").parse().unwrap();
        assert_eq!(after - before, 1);
        machine.session().close().await;
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn a_session_without_calls_is_used_now_and_then_and_begun_again_if_that_was_too_late() {
    let vcenter = Vcenter::new(&["1M"]);
    wait(async {
        let dir = tempfile::tempdir().unwrap();
        let locator: Locator = address(&vcenter, dir.path()).parse().unwrap();
        let every = Duration::from_millis(50);
        let password = Secret::new(PASSWORD.to_owned());
        let open = Session::open_used(&locator.server, password, every);
        let session = open.await.unwrap();
        let count = |call: &str| -> u32 { vcenter.tell(&format!("calls {call}")).parse().unwrap() };
        let logins = count("Login");
        until(|| count("CurrentTime") > 2).await;
        assert_eq!(count("Login"), logins, "it never ended");
        vcenter.tell("expire");
        until(|| count("Login") > logins && vcenter.tell("sessions") == "1").await;
        session.close().await;
        let after = count("CurrentTime");
        sleep(every * 6).await;
        assert_eq!(
            count("CurrentTime"),
            after,
            "nobody uses a session that is closed"
        );
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

/// Waits, half a minute at most.
async fn until(so: impl Fn() -> bool) {
    for _ in 0..1500 {
        if so() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never");
}

#[test]
fn who_is_never_authenticated_is_told_after_one_more_login() {
    let vcenter = Vcenter::new(&["1M"]);
    wait(async {
        let (session, _dir) = session(&vcenter).await;
        vcenter.tell("fail CurrentTime 9 NotAuthenticated");
        let error = session.call(&calls::current_time()).await.unwrap_err();
        assert!(fault::of(&error).unwrap().not_authenticated());
        assert!(
            error.line().contains("logging in again did not help"),
            "{}",
            error.line()
        );
        assert_eq!(vcenter.tell("calls CurrentTime"), "2");
    });
}

#[test]
fn a_session_that_is_dropped_is_logged_out_too() {
    let vcenter = Vcenter::new(&["1M"]);
    wait(async {
        let (session, _dir) = session(&vcenter).await;
        assert_eq!(vcenter.tell("sessions"), "1");
        drop(session);
        assert_eq!(vcenter.tell("sessions"), "0");
    });
}

#[test]
fn a_closed_session_does_not_come_back() {
    let vcenter = Vcenter::new(&["1M"]);
    wait(async {
        let (session, _dir) = session(&vcenter).await;
        session.close().await;
        let error = session
            .call(&calls::retrieve_properties(
                &session.service().property_collector,
                &calls::service(),
                &["capability"],
            ))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted, "{}", error.line());
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn calls_that_change_nothing_survive_a_cut_and_the_password_does_not_show() {
    let vcenter = Vcenter::new(&["1M"]);
    let port = vcenter
        .address()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let proxy = Proxy::tcp(To::Tcp(port));
    wait(async {
        let dir = tempfile::tempdir().unwrap();
        let through = format!("127.0.0.1:{}", proxy.port());
        let address = address(&vcenter, dir.path()).replace(vcenter.address(), &through);
        let locator: Locator = address.parse().unwrap();
        let session = Session::open(&locator.server).await.unwrap();
        assert!(!format!("{session:?} {locator:?}").contains(PASSWORD));
        proxy.cut();
        let mend = async {
            sleep(Duration::from_millis(300)).await;
            proxy.mend();
        };
        let clock = calls::current_time();
        let (told, ()) = tokio::join!(session.call(&clock), mend);
        told.unwrap();
        session.close().await;
    });
    assert_eq!(vcenter.tell("sessions"), "0");
}

#[test]
fn a_signal_ends_the_session_before_the_program() {
    let vcenter = Vcenter::new(&["1M"]);
    let (room, dir) = (Room::new(), tempfile::tempdir().unwrap());
    // Slow enough for the signal to come in the middle.
    let port = vcenter
        .address()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let proxy = Proxy::tcp(To::Tcp(port));
    proxy.delay(Duration::from_millis(300));
    let through = format!("127.0.0.1:{}", proxy.port());
    let address = address(&vcenter, dir.path()).replace(vcenter.address(), &through);
    let before = vcenter.tell("calls RetrievePropertiesEx");
    let running = room.start(["inspect", &address]);
    while vcenter.tell("calls RetrievePropertiesEx") == before {
        thread::sleep(Duration::from_millis(5));
    }
    running.signal(Signal::TERM);
    running.wait().fails(5, &["stopped by a signal"]);
    assert_eq!(vcenter.tell("sessions"), "0");
}
