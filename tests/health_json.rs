//! JSON answers of a server in its embedder's loop: which connections get them, and what the server does if its buffers
//! have no room for them. `src/answer/health_json.rs` tests the JSON itself, and `tests/status.rs` the daemon.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::sync::Arc;

use harness::{Harness, PING, localhost, rest};
use healthz::limits::REASON_BYTES_MAX;
use healthz::server::{Config, Server};
use healthz::{Check, Endpoint, EndpointSet, Responder};
use serde_json::Value;

/// The answer to a request that accepts JSON only, after which the connection closes.
fn ask(harness: &mut Harness, path: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAccept: application/health+json\r\nConnection: close\r\n\r\n"
    );
    rest(&mut harness.send(request.as_bytes()))
}

/// The value of an answer; `None` if it is text.
fn json(answer: &str) -> Option<Value> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_json = head.contains("\r\nContent-Type: application/health+json\r\n");
    is_json.then(|| serde_json::from_str(body).unwrap())
}

/// Endpoints with this many checks, whose answers in JSON are as long as they can be.
fn failing(count: usize) -> Arc<EndpointSet> {
    let check = |number: usize| {
        let check = Check::manual(&format!("check-{number}"));
        check.fail(&"\u{1}".repeat(REASON_BYTES_MAX));
        Arc::new(check)
    };
    let checks: Vec<_> = (0..count).map(check).collect();
    Arc::new(EndpointSet::new([("/healthz", checks)]).unwrap())
}

#[test]
fn a_server_answers_a_client_on_loopback_with_json_and_keeps_the_connection() {
    let mut harness = Harness::new(4);
    let request = "GET /readyz HTTP/1.1\r\nHost: a\r\nAccept: application/health+json\r\n\r\n";
    let requests = format!("{request}GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n{request}") + LAST_TEXT;
    let text = rest(&mut harness.send(requests.as_bytes()));
    // The server must not use the cached head of a client with another `Accept`.
    let kinds: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Content-Type: "))
        .collect();
    let (json_type, text_type) = ("application/health+json", "text/plain; charset=utf-8");
    assert_eq!(
        kinds,
        [json_type, text_type, json_type, text_type],
        "{text}"
    );
    let value = json(&ask(&mut harness, "/readyz")).unwrap();
    assert_eq!(value["description"], "/readyz");
    assert_eq!(value["checks"]["ping"][0]["status"], "pass");
}

const LAST_TEXT: &str = "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn a_server_has_room_for_the_longest_answer_of_its_endpoints() {
    for count in [1, 10, 200] {
        let server = Server::with_endpoint_set(
            Responder::new(&[]),
            failing(count),
            localhost(),
            Config::default(),
        );
        let mut harness = Harness::of(server);
        let answer = ask(&mut harness, "/healthz");
        let value = json(&answer).unwrap();
        assert_eq!(value["checks"].as_object().unwrap().len(), count);
        assert!(answer.len() > count * 6 * REASON_BYTES_MAX);
    }
    // There is room too if the endpoints are fixed.
    let long = "\u{1}".repeat(REASON_BYTES_MAX);
    let checks: Vec<&'static Check> = (0..20)
        .map(|number| {
            let check = Check::manual(&format!("check-{number}"));
            check.fail(&long);
            &*Box::leak(Box::new(check))
        })
        .collect();
    let endpoints = Box::leak(Box::new([Endpoint::new("/healthz", checks.leak())]));
    let mut harness = Harness::on(Responder::new(endpoints), localhost(), Config::default());
    assert!(json(&ask(&mut harness, "/healthz")).is_some());
}

#[test]
fn later_endpoints_whose_json_does_not_fit_answer_with_text() {
    let responder = Responder::new(&[]);
    let config = Config {
        response_bytes_min: Responder::response_bytes_of(50, &Config::default().limits),
        ..Config::default()
    };
    let mut harness = Harness::of(Server::with_endpoint_set(
        responder,
        failing(1),
        localhost(),
        config,
    ));
    assert!(json(&ask(&mut harness, "/healthz")).is_some());
    harness
        .server
        .replace_endpoints(failing(50), harness.now)
        .unwrap();
    let text = ask(&mut harness, "/healthz");
    assert_eq!(json(&text), None);
    assert!(text.starts_with("HTTP/1.1 500 "));
    assert!(
        text.contains("[-]check-49 failed: reason withheld\n"),
        "{text}"
    );
    // With room for it, they answer with JSON.
    let config = Config {
        long_response_bytes_min: config.long_response_bytes_of(&responder, 50),
        ..config
    };
    let mut harness = Harness::of(Server::with_endpoint_set(
        responder,
        failing(1),
        localhost(),
        config,
    ));
    harness
        .server
        .replace_endpoints(failing(50), harness.now)
        .unwrap();
    let value = json(&ask(&mut harness, "/healthz")).unwrap();
    assert_eq!(value["checks"].as_object().unwrap().len(), 50);
}

#[test]
fn the_endpoints_of_few_checks_need_no_buffer_for_long_answers() {
    let checks = [&PING];
    let endpoints = [Endpoint::new("/healthz", &checks)];
    let responder = Responder::new(&endpoints);
    assert_eq!(
        responder.long_response_bytes_max(&Config::default().limits),
        0
    );
    assert!(
        responder.health_json_bytes_max()
            <= responder.response_bytes_max(&Config::default().limits)
    );
}
