//! A host with work of its own, and a health endpoint: `host door|axum idle|spin|block|block-yield`.
//!
//! Its work runs in a tokio runtime with a worker a core. With `axum` the endpoint is a task of that
//! runtime, as is usual; with `door` it is healthz on a thread of its own. Nothing else differs.
//! Says its address on standard output, and ends when its standard input does.

use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};
use tokio::runtime::Runtime;

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

/// How long a task that blocks does so at a time.
const BLOCK: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [who, load] = &arguments[..] else {
        return Err("usage: host door|axum idle|spin|block|block-yield".into());
    };
    let workers = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_io()
        .build()?;
    let address = match who.as_str() {
        "door" => serve_door()?,
        "axum" => serve_axum(&runtime)?,
        _ => return Err(format!("{who}: neither door nor axum").into()),
    };
    work(&runtime, load, workers)?;
    println!("{address}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // A runtime whose workers never yield cannot be shut down.
    std::process::exit(0);
}

fn serve_door() -> Result<SocketAddr, Box<dyn Error>> {
    let mut listeners = Listeners::new();
    listeners.bind(&Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().find_map(|address| match address {
        Address::Tcp(address) => Some(address),
        _ => None,
    });
    // Dropping the handle leaves the thread running.
    healthz::server::spawn(server)?;
    address.ok_or_else(|| "no address".into())
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
        // Twice as many as there are cores, so that the machine is full as well.
        "spin" => {
            for _ in 0..2 * workers {
                runtime.spawn(async {
                    loop {
                        std::hint::spin_loop();
                    }
                });
            }
        }
        // The cores are free, but no worker is.
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
        _ => return Err(format!("{load}: not a load").into()),
    }
    Ok(())
}
