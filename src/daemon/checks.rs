//! The daemon's own checks, and the endpoints that they belong to.
//!
//! Knows nothing of how they are updated: [`super::log`] beats `log`, [`super::sync`] beats `syncloop`, and
//! [`super::serve`] begins the shutdown.

use std::sync::Arc;

use healthz::{Check, Endpoint, Instant, Responder};

use super::metrics::METRICS;
use super::options::Options;

/// The checks and endpoints, made once from the options. They live as long as the process.
#[derive(Clone, Copy)]
pub struct Checks {
    ping: &'static Arc<Check>,
    pub log: &'static Arc<Check>,
    pub syncloop: &'static Arc<Check>,
    /// Not listed while it passes, so that answers equal those of Kubernetes to the byte.
    pub shutdown: &'static Arc<Check>,
    pub endpoints: &'static [Endpoint<'static>],
    allow_hosts: &'static [&'static str],
    has_metrics: bool,
}

impl Checks {
    /// Call this once: the checks and their lists, about 4 KiB, are never freed.
    pub fn new(options: &Options) -> Self {
        let log = Check::heartbeat("log", options.log_limit).overdue("logging blocked");
        // As in the kubelet, the limit does not count before the first beat. The daemon makes that beat when
        // it starts the server.
        let syncloop = Check::heartbeat("syncloop", options.sync_limit)
            .initially_passing()
            .overdue("sync Loop took longer than expected");
        let shutdown = Check::shutdown().unlisted_while_passing();
        let [ping, log, syncloop, shutdown] =
            [Check::ping(), log, syncloop, shutdown].map(|check| leak(Arc::new(check)));
        let live: &[&Check] = leak([&**ping, &**log, &**syncloop]);
        let ready: &[&Check] = leak([&**ping, &**log, &**syncloop, &**shutdown]);
        let hosts = options.allow_hosts.iter();
        let hosts: Vec<&str> = hosts.map(|host| &*host.clone().leak()).collect();
        Checks {
            ping,
            log,
            syncloop,
            shutdown,
            endpoints: leak([
                Endpoint::new("/healthz", live),
                Endpoint::new("/livez", live),
                Endpoint::new("/readyz", ready),
            ]),
            allow_hosts: hosts.leak(),
            has_metrics: options.metrics,
        }
    }

    /// The responder for these endpoints.
    pub fn responder(&self) -> Responder<'static> {
        let responder = Responder::new(self.endpoints).allow_hosts(self.allow_hosts);
        match self.has_metrics {
            true => responder.with_metrics(METRICS),
            false => responder,
        }
    }

    /// Counts changes of these checks. `unix_seconds` is the time of the wall clock, if it is known.
    pub fn observe(&self, now: Instant, unix_seconds: Option<u64>) {
        for check in self.own().chain([&**self.shutdown]) {
            check.observe(now, unix_seconds);
        }
    }

    /// The checks of `/healthz`.
    pub fn own(&self) -> impl Iterator<Item = &'static Check> + use<> {
        [self.ping, self.log, self.syncloop]
            .into_iter()
            .map(|check| &**check)
    }

    /// The same endpoints with more checks: `more` returns those for a path. `shutdown` stays the last one.
    #[cfg(all(feature = "sources", target_os = "linux"))]
    pub fn endpoint_set(
        &self,
        more: impl Fn(&str) -> Vec<Arc<Check>>,
    ) -> Result<healthz::EndpointSet, healthz::EndpointSetError> {
        let own = [self.ping, self.log, self.syncloop].map(Arc::clone);
        let with = |path: &'static str| (path, [own.to_vec(), more(path)].concat());
        let (path, mut ready) = with("/readyz");
        ready.push(Arc::clone(self.shutdown));
        healthz::EndpointSet::new([with("/healthz"), with("/livez"), (path, ready)])
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
