//! The daemon's checks and the endpoints that they decide.
//!
//! Knows nothing of how they are kept up to date: [`super::log`] beats `log`, [`super::sync`] beats
//! `syncloop`, and `main` begins the shutdown.

use healthz::{Check, Endpoint, Responder};

use super::options::Options;

static PING: Check = Check::ping();

/// Answers of a server that is not draining equal Kubernetes' to the byte, so it is not listed then.
pub static SHUTDOWN: Check = Check::shutdown().unlisted_while_passing();

/// What lives as long as the process, made once from its options.
#[derive(Clone, Copy)]
pub struct Checks {
    pub log: &'static Check,
    pub syncloop: &'static Check,
    pub endpoints: &'static [Endpoint<'static>],
    allow_hosts: &'static [&'static str],
}

impl Checks {
    /// To be called once: it leaks what it makes, a few hundred bytes.
    pub fn new(options: &Options) -> Self {
        let log = Check::heartbeat("log", options.log_limit).overdue("logging blocked");
        // As the kubelet's: it passes until the loop was first entered.
        let syncloop = Check::heartbeat("syncloop", options.sync_limit)
            .initially_passing()
            .overdue("sync Loop took longer than expected");
        let (log, syncloop): (&Check, &Check) =
            (Box::leak(Box::new(log)), Box::leak(Box::new(syncloop)));
        let alive: &[&Check] = Box::leak(Box::new([&PING, log, syncloop]));
        let ready: &[&Check] = Box::leak(Box::new([&PING, log, syncloop, &SHUTDOWN]));
        let hosts = options.allow_hosts.iter();
        let hosts: Vec<&str> = hosts.map(|host| &*host.clone().leak()).collect();
        Checks {
            log,
            syncloop,
            endpoints: Box::leak(Box::new([
                Endpoint::new("/healthz", alive),
                Endpoint::new("/livez", alive),
                Endpoint::new("/readyz", ready),
            ])),
            allow_hosts: hosts.leak(),
        }
    }

    /// What answers requests.
    pub fn responder(&self) -> Responder<'static> {
        Responder::new(self.endpoints).allow_hosts(self.allow_hosts)
    }

    /// The endpoint that says whether the daemon is well: `/healthz`.
    pub fn alive(&self) -> Endpoint<'static> {
        match self.endpoints.first() {
            Some(endpoint) => *endpoint,
            None => Endpoint::new("/healthz", &[]),
        }
    }
}
