//! Replaces `source_checks` in a program without the feature `sources`, and on systems other than Linux: no check can
//! be configured.

use std::os::fd::RawFd;

use healthz::{Check, EndpointSet, EndpointSetError, Instant};

use super::Failure;
use super::checks::Checks;
use super::options::Options;

/// No check can be configured.
pub const CHECKS_MAX: usize = 0;

/// There is no configuration.
pub enum Configured {}

/// There are no configured checks.
pub enum SourceChecks {}

/// See `source_checks`.
pub struct Taken {
    pub has_more: bool,
    pub has_reload_ended: bool,
}

impl Configured {
    pub fn read(_options: &Options) -> Result<Option<Self>, Failure> {
        Ok(None)
    }

    pub fn prepare(self, _now: Instant) -> Result<SourceChecks, Failure> {
        match self {}
    }
}

impl SourceChecks {
    pub fn start(&mut self) -> Result<(), Failure> {
        match *self {}
    }

    pub fn as_raw_fd(&self) -> RawFd {
        match *self {}
    }

    pub fn wait_until_open(&self) {
        match *self {}
    }

    pub fn can_reload(&self) -> bool {
        match *self {}
    }

    pub fn endpoint_set(&self, _own: &Checks) -> Result<EndpointSet, EndpointSetError> {
        match *self {}
    }

    pub fn checks(&self) -> std::iter::Empty<&Check> {
        match *self {}
    }

    pub fn reload(&mut self, _now: Instant) -> bool {
        match *self {}
    }

    pub fn has_reload_expired(&mut self, _now: Instant) -> bool {
        match *self {}
    }

    pub fn deadline(&self) -> Option<Instant> {
        match *self {}
    }

    pub fn take(
        &mut self,
        _own: &Checks,
        _now: Instant,
        _unix_seconds: Option<u64>,
        _replace: impl FnMut(EndpointSet) -> Result<(), String>,
    ) -> Result<Taken, Failure> {
        match *self {}
    }

    pub fn observe(&self, _now: Instant, _unix_seconds: Option<u64>) {
        match *self {}
    }

    pub fn report_changes(&mut self, _now: Instant) -> bool {
        match *self {}
    }
}
