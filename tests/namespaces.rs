//! Listening in a network namespace of its own: the loopback interface is down, has no IPv6, or has another address.
//! Each test runs in a child process, because a namespace applies to the whole process.
#![cfg(all(feature = "server", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;
#[path = "support/records.rs"]
mod records;
include!("support/untried.rs");

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use harness::{Harness, LAST, TIMEOUT, address_of, rest};
use healthz::server::{Address, BindErrorKind, Listeners};
use socket2::{Domain, Socket, Type};

const CHILD: &str = "HEALTHZ_TEST_NAMESPACE_CHILD";
const LOCALHOST: Address = Address::Localhost(0);
/// Addresses that no machine has: RFC 5737 and RFC 3849.
const NO_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NO_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Runs `test` in a child process in a new network namespace, after the shell commands `setup`.
fn in_a_namespace(name: &str, setup: &str, test: fn()) {
    if std::env::var_os(CHILD).is_some() {
        test();
        println!("the test has run");
        return;
    }
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c"]);
        command.args(arguments).env(CHILD, "1").output()
    };
    let is_possible = |output: std::process::Output| output.status.success();
    if !unshare(&[setup]).is_ok_and(is_possible) {
        return untried("no network namespace, or no ip(8)");
    }
    let script = format!("{setup} && exec \"$0\" --exact --nocapture --test-threads=1 \"$1\"");
    let program = std::env::current_exe().unwrap();
    let output = unshare(&[&script, program.to_str().unwrap(), name]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("the test has run"),
        "{text}"
    );
}

/// For each socket, whether its address is of IPv6.
fn are_ipv6(listeners: &Listeners) -> Vec<bool> {
    let addresses = listeners.local_addresses();
    let is_ipv6 = addresses.map(|address| match address {
        Address::Tcp(address) => address.is_ipv6(),
        other => panic!("not on TCP: {other}"),
    });
    is_ipv6.collect()
}

#[test]
fn both_addresses_of_localhost_are_bound_while_the_loopback_interface_is_down() {
    in_a_namespace(
        "both_addresses_of_localhost_are_bound_while_the_loopback_interface_is_down",
        "true",
        || {
            let mut listeners = Listeners::new();
            let bound = listeners.bind(&LOCALHOST).unwrap();
            assert!(bound.missing.is_none(), "{:?}", bound.missing);
            assert_eq!(are_ipv6(&listeners), [false, true]);
        },
    );
}

#[test]
fn without_ipv6_the_other_address_of_localhost_is_served_and_the_missing_one_is_named() {
    in_a_namespace(
        "without_ipv6_the_other_address_of_localhost_is_served_and_the_missing_one_is_named",
        "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6",
        || {
            let mut listeners = Listeners::new();
            let bound = listeners.bind(&LOCALHOST).unwrap();
            let (missing, error) = bound.missing.unwrap();
            assert_eq!(missing.ip(), IpAddr::V6(Ipv6Addr::LOCALHOST));
            assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
            assert_eq!(are_ipv6(&listeners), [false]);
            // The missing address has the port of the other one.
            let served = listeners.local_addresses().next().unwrap();
            assert_eq!(
                served,
                Address::Tcp(([127, 0, 0, 1], missing.port()).into())
            );
        },
    );
}

/// Only `[::1]` may be bound before it exists. Any other address that the machine does not have is an error of the
/// settings.
#[test]
fn an_address_that_the_machine_does_not_have_is_refused() {
    in_a_namespace(
        "an_address_that_the_machine_does_not_have_is_refused",
        "ip link set lo up",
        || {
            for address in [NO_IPV4, NO_IPV6] {
                let mut listeners = Listeners::new().allow_remote(true);
                let address = Address::Tcp(SocketAddr::new(address, 0));
                let error = listeners.bind(&address).unwrap_err();
                assert_eq!(error.kind(), BindErrorKind::Other, "{error}");
                assert!(listeners.is_empty());
            }
        },
    );
}

#[test]
fn a_connection_to_loopback_from_another_address_is_closed_unread_and_counted() {
    in_a_namespace(
        "a_connection_to_loopback_from_another_address_is_closed_unread_and_counted",
        "ip link set lo up && ip address add 192.0.2.1/32 dev lo",
        || {
            records::begin();
            let mut harness = Harness::new(4);
            let server = address_of(&harness.server);
            for count in 1..=2 {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.bind(&SocketAddr::new(NO_IPV4, 0).into()).unwrap();
                client.connect(&server.into()).unwrap();
                client.set_read_timeout(Some(TIMEOUT)).unwrap();
                (&client).write_all(LAST).unwrap();
                harness.work();
                // The request is unread, so the close resets the connection.
                let result = (&client).read(&mut [0; 64]);
                let result = result.map_err(|error| error.kind());
                assert_eq!(result, Err(ErrorKind::ConnectionReset));
                let counters = harness.server.counters();
                assert_eq!((counters.non_loopback, counters.accepted), (count, 0));
                assert_eq!(counters.answered, 0);
                // Only the first one is logged.
                assert_eq!(records::records(log::Level::Warn).len(), count as usize % 2);
            }
            // Connections from loopback are answered as before.
            assert!(rest(&mut harness.send(LAST)).ends_with("ok"));
            assert_eq!(harness.server.counters().non_loopback, 2);
        },
    );
}
