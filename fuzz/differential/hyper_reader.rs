//! The requests that hyper finds in a stream.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use super::healthz_reader::RequestSummary;

pub struct HyperReading {
    pub requests: Vec<RequestSummary>,
    pub error: Option<String>,
}

impl HyperReading {
    /// Serves the stream until its end and records each request. Bodies are read and discarded.
    pub fn read(stream: &[u8]) -> Self {
        let requests = Rc::new(RefCell::new(Vec::new()));
        let recorded = Rc::clone(&requests);
        let service = service_fn(move |request: Request<Incoming>| {
            recorded.borrow_mut().push(summary(&request));
            async move {
                // An error of the body also ends the connection.
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let io = Stream(stream.to_vec(), 0);
        let mut builder = http1::Builder::new();
        builder.half_close(true).auto_date_header(false);
        // The same limit as in healthz.
        builder.max_headers(healthz::limits::FIELDS_MAX);
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut context = Context::from_waker(Waker::noop());
        // Reading and writing are always ready, so only hyper's own yields return `Pending`.
        let error = (0..10_000).find_map(|_| match connection.as_mut().poll(&mut context) {
            Poll::Ready(result) => Some(result.err().map(|error| format!("{error:?}"))),
            Poll::Pending => None,
        });
        let error = error.unwrap_or_else(|| Some("still pending".to_owned()));
        let requests = requests.borrow().clone();
        HyperReading { requests, error }
    }
}

fn summary(request: &Request<Incoming>) -> RequestSummary {
    let uri = request.uri();
    RequestSummary {
        method: match request.method().as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "OPTIONS" => "OPTIONS",
            "POST" => "POST",
            _ => "another",
        },
        authority: uri.authority().map(|authority| authority.to_string()),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
    }
}

/// Bytes to read, and how many were read. Written bytes are discarded.
struct Stream(Vec<u8>, usize);

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.0.len().min(self.1 + buffer.remaining());
        buffer.put_slice(&self.0[self.1..end]);
        self.1 = end;
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
