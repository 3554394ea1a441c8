//! The daemon's checks, and the endpoints that they belong to.
//!
//! Knows nothing of how they are updated: [`super::log`] beats `log`, [`super::sync`] beats `syncloop`, and
//! [`super::serve`] begins the shutdown.

use healthz::{Check, Endpoint, Responder};

use super::options::Options;

static PING: Check = Check::ping();

/// Not listed while it passes, so that answers equal those of Kubernetes to the byte.
pub static SHUTDOWN: Check = Check::shutdown().unlisted_while_passing();

/// The checks and endpoints, made once from the options. They live as long as the process.
#[derive(Clone, Copy)]
pub struct Checks {
    pub log: &'static Check,
    pub syncloop: &'static Check,
    pub endpoints: &'static [Endpoint<'static>],
    allow_hosts: &'static [&'static str],
}

impl Checks {
    /// Call this once: the checks and their lists, about 2 KiB, are never freed.
    pub fn new(options: &Options) -> Self {
        let log = Check::heartbeat("log", options.log_limit).overdue("logging blocked");
        // As in the kubelet, the limit does not count before the first beat. The daemon makes that beat when
        // it starts the server.
        let syncloop = Check::heartbeat("syncloop", options.sync_limit)
            .initially_passing()
            .overdue("sync Loop took longer than expected");
        let (log, syncloop): (&Check, &Check) =
            (Box::leak(Box::new(log)), Box::leak(Box::new(syncloop)));
        let live: &[&Check] = Box::leak(Box::new([&PING, log, syncloop]));
        let ready: &[&Check] = Box::leak(Box::new([&PING, log, syncloop, &SHUTDOWN]));
        let hosts = options.allow_hosts.iter();
        let hosts: Vec<&str> = hosts.map(|host| &*host.clone().leak()).collect();
        Checks {
            log,
            syncloop,
            endpoints: Box::leak(Box::new([
                Endpoint::new("/healthz", live),
                Endpoint::new("/livez", live),
                Endpoint::new("/readyz", ready),
            ])),
            allow_hosts: hosts.leak(),
        }
    }

    /// The responder for these endpoints.
    pub fn responder(&self) -> Responder<'static> {
        Responder::new(self.endpoints).allow_hosts(self.allow_hosts)
    }

    /// The endpoint `/healthz`, which has the daemon's own checks.
    pub fn healthz(&self) -> Endpoint<'static> {
        match self.endpoints.first() {
            Some(endpoint) => *endpoint,
            None => Endpoint::new("/healthz", &[]),
        }
    }
}
