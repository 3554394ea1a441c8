//! A busy program with a health endpoint, for the bench `starvation`:
//! `host healthz|axum idle|spin|block|block-yield`.
//!
//! Its work runs in a tokio runtime with one worker per core. With `axum` the endpoint is a task in that
//! runtime, as is usual; with `healthz` it is healthz on its own thread. Nothing else differs. It prints its
//! address and ends when its standard input ends.

use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};
use tokio::runtime::Runtime;

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

/// How long a blocking task blocks each time.
const BLOCK: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, load] = &arguments[..] else {
        return Err("usage: host healthz|axum idle|spin|block|block-yield".into());
    };
    let workers = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_io()
        .build()?;
    let address = match server.as_str() {
        "healthz" => serve_healthz()?,
        "axum" => serve_axum(&runtime)?,
        _ => return Err(format!("{server}: expected healthz or axum").into()),
    };
    work(&runtime, load, workers)?;
    println!("{address}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Exit at once: a runtime whose workers never yield cannot be shut down.
    std::process::exit(0);
}

fn serve_healthz() -> Result<SocketAddr, Box<dyn Error>> {
    let mut listeners = Listeners::new();
    listeners.bind(&Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().find_map(|address| match address {
        Address::Tcp(address) => Some(address),
        _ => None,
    });
    // Dropping the handle leaves the thread running.
    healthz::server::spawn(server)?;
    address.ok_or_else(|| "the server has no TCP address".into())
}

fn serve_axum(runtime: &Runtime) -> Result<SocketAddr, Box<dyn Error>> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = runtime.block_on(tokio::net::TcpListener::bind(any))?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().route("/healthz", axum::routing::get(async || "ok"));
    runtime.spawn(async { axum::serve(listener, app).await });
    Ok(address)
}

fn work(runtime: &Runtime, load: &str, workers: usize) -> Result<(), Box<dyn Error>> {
    match load {
        "idle" => {}
        // More tasks than workers, so that every worker spins, and other threads must wait for a CPU.
        "spin" => {
            for _ in 0..2 * workers {
                runtime.spawn(async {
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
        }
        // The cores are idle, but all workers are blocked.
        "block" => {
            for _ in 0..8 * workers {
                runtime.spawn(async {
                    loop {
                        std::thread::sleep(BLOCK);
                    }
                });
            }
        }
        "block-yield" => {
            for _ in 0..8 * workers {
                runtime.spawn(async {
                    loop {
                        std::thread::sleep(BLOCK);
                        tokio::task::yield_now().await;
                    }
                });
            }
        }
        _ => return Err(format!("{load}: expected idle, spin, block or block-yield").into()),
    }
    Ok(())
}
