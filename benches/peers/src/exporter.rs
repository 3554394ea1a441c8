//! A hyper server with metrics, for the bench `metrics`: `exporter FILE`.
//!
//! FILE is a text for Prometheus. The server has the same series, with the same labels, and except for histograms with
//! the same values, in a registry of the crate `prometheus-client`. It encodes them for each request of `/metrics`, as
//! the example of that crate does. It has one thread, as healthz. It prints its address and ends when its standard
//! input ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels = Vec<(String, String)>;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: exporter FILE")?;
    let registry = Arc::new(registry(&std::fs::read_to_string(file)?)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime.block_on(serve(listener, registry))
}

async fn serve(
    listener: tokio::net::TcpListener,
    registry: Arc<Registry>,
) -> Result<(), Box<dyn Error>> {
    loop {
        let (stream, _) = listener.accept().await?;
        let registry = registry.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let response = respond(&request, &registry);
                async { Ok::<_, Infallible>(response) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            // A client that leaves is no error.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    let mut response = match request.uri().path() {
        "/metrics" if encode(&mut text, registry).is_ok() => Response::new(Full::from(text)),
        _ => {
            let mut response = Response::new(Full::from("not found\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    let text_format =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text_format);
    response
}

/// The families of a text.
fn registry(text: &str) -> Result<Registry, Box<dyn Error>> {
    let mut registry = Registry::default();
    let mut helps = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').ok_or("expected a help text")?;
            helps.insert(name, help);
            continue;
        }
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            return Err(format!("expected a family: {line}").into());
        };
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            samples.push(sample(line).ok_or_else(|| format!("expected a sample: {line}"))?);
        }
        let help = helps.get(name).copied().unwrap_or_default();
        add(&mut registry, [name, kind, help], samples)?;
    }
    Ok(registry)
}

fn add(
    registry: &mut Registry,
    [name, kind, help]: [&str; 3],
    samples: Vec<Sample>,
) -> Result<(), Box<dyn Error>> {
    // Whole numbers are written faster.
    let is_whole = samples.iter().all(|sample| sample.value.fract() == 0.0);
    // The crate appends the suffix.
    let counter = name.strip_suffix("_total").unwrap_or(name);
    match kind {
        "counter" if is_whole => {
            let family = Family::<Labels, Counter>::default();
            for Sample { labels, value } in &samples {
                family.get_or_create(labels).inc_by(*value as u64);
            }
            registry.register(counter, help, family);
        }
        "counter" => {
            let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
            for Sample { labels, value } in &samples {
                family.get_or_create(labels).inc_by(*value);
            }
            registry.register(counter, help, family);
        }
        "gauge" if is_whole => {
            let family = Family::<Labels, Gauge>::default();
            for Sample { labels, value } in &samples {
                family.get_or_create(labels).set(*value as i64);
            }
            registry.register(name, help, family);
        }
        "gauge" => {
            let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
            for Sample { labels, value } in &samples {
                family.get_or_create(labels).set(*value);
            }
            registry.register(name, help, family);
        }
        "histogram" => {
            let bounds = samples.iter().filter_map(|sample| {
                let (_, bound) = sample.labels.iter().find(|(label, _)| label == "le")?;
                bound.parse().ok().filter(|bound: &f64| bound.is_finite())
            });
            // The crate adds +Inf.
            let histogram = Histogram::new(bounds.collect::<Vec<f64>>());
            for seconds in [0.00002, 0.0001, 0.0005] {
                histogram.observe(seconds);
            }
            registry.register(name, help, histogram);
        }
        _ => return Err(format!("{name}: unknown type {kind}").into()),
    }
    Ok(())
}

struct Sample {
    labels: Labels,
    value: f64,
}

/// `name{label="value",..} 1`, without escapes.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let labels = series
        .split_once('{')
        .map_or("", |(_, rest)| rest.trim_end_matches('}'));
    let labels = labels.split_terminator(',').map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample {
        labels: labels.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}
