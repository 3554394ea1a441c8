//! A server and everything that it needs, in one block of memory.
//!
//! ```text
//! Healthz | checks | lists of checks | endpoints | slots | head cache | bytes for heads and answers
//! ```
//!
//! This module checks the options, computes the layout, writes the parts and creates the server from them. It
//! does not read strings from C or write results to C; `guard` and `capi` do, and call it.
//!
//! References to the parts behind the [`Healthz`] are `'static`, because a structure cannot name the lifetime of
//! the block that it is in. That is sound: only the block's own content refers to the block, and C promises not to
//! use the server or its checks after `healthz_destroy`, which frees the block.

use core::alloc::Layout;
use core::ffi::CStr;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd};

use super::HealthzResult::{self, HEALTHZ_BROKEN, HEALTHZ_INVALID, HEALTHZ_NO_MEMORY};
use super::error::{CallError, ErrorText};
use super::{
    HEALTHZ_CHECKS_MAX, HEALTHZ_INITIALLY_PASSING, HEALTHZ_MEMORY_ALIGN, HEALTHZ_ON_HEALTHZ,
    HEALTHZ_ON_LIVEZ, HEALTHZ_ON_READYZ, HealthzCheck, HealthzOptions,
};
use crate::answer::{Metrics, Responder};
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{
    CHECK_NAME_BYTES_MAX, CONNECTIONS_MAX, Limits, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN,
};
use crate::server::{
    Address, Config, Counters, Listeners, Memory, Runner, Server, ServerHandle, Slot, now,
};

const CHECKS_DEFAULT: usize = 16;
/// `shutdown`, which every server has.
const CHECKS_OWN: usize = 1;
const CHECKS_MAX: usize = HEALTHZ_CHECKS_MAX as usize;
/// The endpoints and their flags, in the order of the lists of checks.
const ENDPOINTS: [(u32, &str); 3] = [
    (HEALTHZ_ON_HEALTHZ, "/healthz"),
    (HEALTHZ_ON_LIVEZ, "/livez"),
    (HEALTHZ_ON_READYZ, "/readyz"),
];
const ALL_ENDPOINTS: u32 = HEALTHZ_ON_HEALTHZ | HEALTHZ_ON_LIVEZ | HEALTHZ_ON_READYZ;

/// A check with the longest name, to compute the size of the longest answer.
static LONGEST: Check = Check::manual(match core::str::from_utf8(&[b'x'; CHECK_NAME_BYTES_MAX]) {
    Ok(name) => name,
    Err(_) => "",
});
static LONGEST_LIST: [&Check; CHECKS_MAX + CHECKS_OWN] = [&LONGEST; CHECKS_MAX + CHECKS_OWN];

type List = *mut &'static Check;

/// A server: its sockets, connections and checks.
//
// It is the first part of the block; the other parts follow it.
pub struct Healthz {
    state: State,
    is_broken: bool,
    error: ErrorText,
    /// For `healthz_missing`.
    missing: Option<ErrorText>,
    parts: Parts,
    checks_max: usize,
    /// Checks added so far, including `shutdown`.
    checks: usize,
    /// How many of them are in the list of each endpoint.
    listed: [usize; ENDPOINTS.len()],
    limits: Limits,
    connections: usize,
    has_metrics: bool,
    /// The layout to free the block with, if it is from the heap.
    owned: Option<Layout>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one per server, in a block of that size"
)]
enum State {
    /// Before `start`: addresses and checks can be added.
    Configuring(Listeners),
    Serving(Runner<'static>, ServerHandle),
    /// `start` failed.
    Failed,
}

/// Options, validated and with defaults filled in.
pub(super) struct Settings {
    config: Config,
    checks_max: usize,
    allows_remote: bool,
    has_metrics: bool,
}

impl Settings {
    /// `None` if an option is out of range.
    pub(super) fn of(options: Option<&HealthzOptions>) -> Option<Self> {
        let options = options.copied().unwrap_or_default();
        let or = |value: u32, default: usize| match value {
            0 => default,
            value => value as usize,
        };
        let millis = |value: u32, default: Duration| match value {
            0 => default,
            value => Duration::from_millis(value.into()),
        };
        let limits = Limits::DEFAULT;
        let config = Config {
            limits: Limits {
                request_head_bytes: or(options.head_bytes, limits.request_head_bytes),
                head_duration: millis(options.head_ms, limits.head_duration),
                idle_duration: millis(options.idle_ms, limits.idle_duration),
                drain_duration: millis(options.drain_ms, limits.drain_duration),
                ..limits
            },
            connections: or(options.connections, Config::default().connections),
            ..Config::default()
        };
        let checks_max = or(options.checks, CHECKS_DEFAULT);
        let head_bytes = REQUEST_HEAD_BYTES_MIN..=REQUEST_HEAD_BYTES_MAX;
        let is_valid = (1..=CONNECTIONS_MAX).contains(&config.connections)
            && head_bytes.contains(&config.limits.request_head_bytes)
            && checks_max <= CHECKS_MAX;
        is_valid.then_some(Settings {
            config,
            checks_max,
            allows_remote: options.allow_remote != 0,
            has_metrics: options.metrics != 0,
        })
    }

    /// Size and alignment of the block.
    pub(super) fn layout(&self) -> Option<Layout> {
        Some(self.plan()?.layout)
    }

    /// Where each part begins. `None` if the size does not fit in `isize`.
    fn plan(&self) -> Option<Plan> {
        let checks = self.checks_max + CHECKS_OWN;
        let checks_list = LONGEST_LIST.get(..checks)?;
        let endpoints = ["/healthz", "/livez", "/readyz"]
            .map(|path| Endpoint::with_any_names(path, checks_list));
        let bytes = self
            .config
            .buffer_bytes(&responder(&endpoints, self.has_metrics));
        let mut layout = Layout::new::<Healthz>()
            .align_to(HEALTHZ_MEMORY_ALIGN as usize)
            .ok()?;
        let mut append = |part: Layout| -> Option<usize> {
            let (longer, offset) = layout.extend(part).ok()?;
            layout = longer;
            Some(offset)
        };
        Some(Plan {
            checks: append(Layout::array::<HealthzCheck>(checks).ok()?)?,
            lists: append(Layout::array::<&Check>(checks * ENDPOINTS.len()).ok()?)?,
            endpoints: append(Layout::new::<[Endpoint<'_>; ENDPOINTS.len()]>())?,
            slots: append(Layout::array::<Slot>(self.config.connections).ok()?)?,
            heads: append(Layout::new::<HeadCache>())?,
            bytes: append(Layout::array::<u8>(bytes).ok()?)?,
            bytes_count: bytes,
            layout: layout.pad_to_align(),
        })
    }
}

fn responder<'a>(endpoints: &'a [Endpoint<'a>], has_metrics: bool) -> Responder<'a> {
    let responder = Responder::new(endpoints);
    match has_metrics {
        true => responder.with_metrics(Metrics::new()),
        false => responder,
    }
}

/// Offsets of the parts in the block.
struct Plan {
    checks: usize,
    lists: usize,
    endpoints: usize,
    slots: usize,
    heads: usize,
    bytes: usize,
    bytes_count: usize,
    layout: Layout,
}

/// Pointers to the parts of the block. Only the server uses them. A part is uninitialized until written.
struct Parts {
    checks: *mut HealthzCheck,
    lists: [List; ENDPOINTS.len()],
    endpoints: *mut [Endpoint<'static>; ENDPOINTS.len()],
    slots: *mut Slot,
    heads: *mut HeadCache,
    bytes: *mut u8,
    bytes_count: usize,
}

impl Healthz {
    /// Creates a server in a block from the heap.
    pub(super) fn on_heap(settings: Settings) -> Result<*mut Healthz, HealthzResult> {
        let layout = settings.layout().ok_or(HEALTHZ_NO_MEMORY)?;
        // SAFETY: the layout contains a `Healthz`, so its size is not 0.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        if block.is_null() {
            return Err(HEALTHZ_NO_MEMORY);
        }
        // SAFETY: just allocated with this layout.
        match unsafe { Healthz::place(settings, block, Some(layout)) } {
            Some(server) => Ok(server),
            None => {
                // SAFETY: allocated with this layout, and nothing refers to it.
                unsafe { std::alloc::dealloc(block, layout) };
                Err(HEALTHZ_BROKEN)
            }
        }
    }

    /// Creates a server in a block of the caller.
    ///
    /// # Safety
    /// `block` is null, or `bytes` long and used by nothing else until the server is destroyed.
    pub(super) unsafe fn in_memory(
        settings: Settings,
        block: *mut u8,
        bytes: usize,
    ) -> Result<*mut Healthz, HealthzResult> {
        if block.is_null() {
            return Err(HEALTHZ_INVALID);
        }
        let layout = settings.layout().ok_or(HEALTHZ_NO_MEMORY)?;
        if bytes < layout.size() || block.align_offset(layout.align()) != 0 {
            return Err(HEALTHZ_NO_MEMORY);
        }
        // SAFETY: large enough, aligned, and used by nothing else.
        unsafe { Healthz::place(settings, block, None) }.ok_or(HEALTHZ_BROKEN)
    }

    /// # Safety
    /// `block` fits the layout of the settings and nothing else uses it until the server is destroyed.
    unsafe fn place(
        settings: Settings,
        block: *mut u8,
        owned: Option<Layout>,
    ) -> Option<*mut Healthz> {
        let plan = settings.plan()?;
        let checks = settings.checks_max + CHECKS_OWN;
        // SAFETY: the offsets are within the block and aligned for their types. The three lists follow
        // each other, and each has room for all checks.
        let parts = unsafe {
            let lists: List = block.add(plan.lists).cast();
            Parts {
                checks: block.add(plan.checks).cast(),
                lists: [lists, lists.add(checks), lists.add(2 * checks)],
                endpoints: block.add(plan.endpoints).cast(),
                slots: block.add(plan.slots).cast(),
                heads: block.add(plan.heads).cast(),
                bytes: block.add(plan.bytes).cast(),
                bytes_count: plan.bytes_count,
            }
        };
        let mut made = Healthz {
            state: State::Configuring(Listeners::new().allow_remote(settings.allows_remote)),
            is_broken: false,
            error: ErrorText::new(format_args!("no error")),
            missing: None,
            parts,
            checks_max: checks,
            checks: 0,
            listed: [0; ENDPOINTS.len()],
            limits: settings.config.limits,
            connections: settings.config.connections,
            has_metrics: settings.has_metrics,
            owned,
        };
        // The first reading of the clock may block on another thread. Later ones may happen in signal
        // handlers, so the first one is made here.
        let _ = now();
        let shutdown = || Ok(Check::shutdown().unlisted_while_passing());
        made.add(HEALTHZ_ON_READYZ, shutdown).ok()?;
        let server: *mut Healthz = block.cast();
        // SAFETY: the block begins with memory for a `Healthz`.
        unsafe { server.write(made) };
        Some(server)
    }

    /// # Safety
    /// `server` exists, and neither it nor its checks are used after this.
    pub(super) unsafe fn destroy(server: *mut Healthz) {
        // SAFETY: as our caller promises. Dropping it drops every reference into the block. Checks have
        // nothing to drop.
        unsafe {
            let owned = (*server).owned;
            server.drop_in_place();
            if let Some(layout) = owned {
                std::alloc::dealloc(server.cast(), layout);
            }
        }
    }

    /// Adds the check that `make` returns, to the endpoints in `flags`.
    pub(super) fn add(
        &mut self,
        flags: u32,
        make: impl FnOnce() -> Result<Check, CallError>,
    ) -> Result<&'static HealthzCheck, CallError> {
        let State::Configuring(_) = self.state else {
            return Err(too_late());
        };
        if flags & !(ALL_ENDPOINTS | HEALTHZ_INITIALLY_PASSING) != 0 {
            return Err(CallError::invalid(format_args!(
                "flags is {flags:#x}; use a sum of HEALTHZ_ON_HEALTHZ, HEALTHZ_ON_LIVEZ, HEALTHZ_ON_READYZ and HEALTHZ_INITIALLY_PASSING"
            )));
        }
        if self.checks >= self.checks_max {
            return Err(CallError::invalid(format_args!(
                "there are {} checks already; raise `checks` in struct healthz_options",
                self.checks_max - CHECKS_OWN
            )));
        }
        // SAFETY: the first `self.checks` checks were written. There is room for one more, and nothing
        // refers to that yet.
        let (others, slot) = unsafe {
            (
                core::slice::from_raw_parts(self.parts.checks, self.checks),
                self.parts.checks.add(self.checks),
            )
        };
        let mut check = make()?;
        if flags & HEALTHZ_INITIALLY_PASSING != 0 {
            check = check.initially_passing();
        }
        if let Some(other) = others.iter().find(|other| other.0.name() == check.name()) {
            return Err(CallError::invalid(format_args!(
                "there is already a check named {:?}",
                other.0.name()
            )));
        }
        // SAFETY: as above. After this it is only read.
        let check: &'static HealthzCheck = unsafe {
            slot.write(HealthzCheck(check));
            &*slot
        };
        self.checks += 1;
        let endpoints = match flags & ALL_ENDPOINTS {
            0 => ALL_ENDPOINTS,
            endpoints => endpoints,
        };
        let lists = self.parts.lists.iter().zip(&mut self.listed);
        for ((list, count), (endpoint, _)) in lists.zip(ENDPOINTS) {
            if endpoints & endpoint != 0 {
                // SAFETY: a list has room for all checks, and each check is added once.
                unsafe { list.add(*count).write(&check.0) };
                *count += 1;
            }
        }
        Ok(check)
    }

    pub(super) fn listen(&mut self, address: &Address) -> Result<(), CallError> {
        let bound = self.listeners()?.bind(address);
        let bound = bound.map_err(|error| CallError::system(format_args!("{error}")))?;
        self.missing = bound
            .missing
            .map(|(address, error)| ErrorText::new(format_args!("{address}: {error}")));
        Ok(())
    }

    pub(super) fn missing(&self) -> Option<&CStr> {
        self.missing.as_ref().map(ErrorText::as_c_str)
    }

    /// The listeners, to add one.
    pub(super) fn listeners(&mut self) -> Result<&mut Listeners, CallError> {
        match &mut self.state {
            State::Configuring(listeners) => Ok(listeners),
            _ => Err(too_late()),
        }
    }

    pub(super) fn start(&mut self) -> Result<(), CallError> {
        let State::Configuring(listeners) = &mut self.state else {
            return Err(too_late());
        };
        if listeners.is_empty() {
            return Err(CallError::invalid(format_args!(
                "no address to listen on: healthz_listen() was not called, or failed"
            )));
        }
        let listeners = core::mem::take(listeners);
        self.state = State::Failed;
        let [healthz, livez, readyz] = [0, 1, 2].map(|index| self.endpoint(index));
        let endpoints = [healthz?, livez?, readyz?];
        let parts = &self.parts;
        // SAFETY: nothing refers to these parts yet, and each is written before it is referred to. The
        // bytes are not written: they are zero (heap) or what C left there, and any value is valid.
        let (endpoints, memory) = unsafe {
            parts.endpoints.write(endpoints);
            parts.heads.write(HeadCache::new());
            for index in 0..self.connections {
                parts.slots.add(index).write(Slot::new());
            }
            let memory = Memory {
                slots: core::slice::from_raw_parts_mut(parts.slots, self.connections),
                bytes: core::slice::from_raw_parts_mut(parts.bytes, parts.bytes_count),
                heads: &mut *parts.heads,
            };
            (&*parts.endpoints, memory)
        };
        let responder = responder(endpoints, self.has_metrics);
        let server = Server::with_memory(responder, listeners, self.limits, memory);
        let runner = Runner::new(server).map_err(|error| {
            CallError::system(format_args!("cannot watch the sockets: {error}"))
        })?;
        let handle = runner.handle();
        self.state = State::Serving(runner, handle);
        Ok(())
    }

    fn endpoint(&self, index: usize) -> Result<Endpoint<'static>, CallError> {
        let parts = self.parts.lists.iter().zip(self.listed).zip(ENDPOINTS);
        let Some(((list, count), (_, path))) = parts.into_iter().nth(index) else {
            return Err(CallError::invalid(format_args!(
                "no endpoint with this index"
            )));
        };
        // SAFETY: `count` entries were written, and none is written after this.
        let checks = unsafe { core::slice::from_raw_parts(*list, count) };
        Ok(Endpoint::new(path, checks))
    }

    pub(super) fn poll_once(&mut self, timeout: Option<Duration>) -> Result<usize, CallError> {
        let events = self.runner()?.poll_once(timeout);
        events.map_err(|error| CallError::system(format_args!("cannot wait for events: {error}")))
    }

    pub(super) fn stop(&mut self) -> Result<(), CallError> {
        match &self.state {
            State::Serving(_, handle) => {
                handle.stop();
                Ok(())
            }
            _ => Err(too_early()),
        }
    }

    pub(super) fn begin_shutdown(&self) {
        // SAFETY: the first check is `shutdown`, written by `place`.
        unsafe { &*self.parts.checks }.0.begin_shutdown();
    }

    fn runner(&mut self) -> Result<&mut Runner<'static>, CallError> {
        match &mut self.state {
            State::Serving(runner, _) => Ok(runner),
            _ => Err(too_early()),
        }
    }

    pub(super) fn port(&self) -> u16 {
        let port = |address| match address {
            Address::Tcp(address) => Some(address.port()),
            _ => None,
        };
        let port = match &self.state {
            State::Configuring(listeners) => listeners.local_addresses().find_map(port),
            State::Serving(runner, _) => runner.server().local_addr().map(|address| address.port()),
            State::Failed => None,
        };
        port.unwrap_or(0)
    }

    pub(super) fn fd(&self) -> i32 {
        match &self.state {
            State::Serving(runner, _) => runner.as_fd().as_raw_fd(),
            _ => -1,
        }
    }

    pub(super) fn timeout(&self) -> i32 {
        let timeout = match &self.state {
            State::Serving(runner, _) => runner.timeout(),
            _ => None,
        };
        timeout.map_or(-1, |wait| {
            i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        match &self.state {
            State::Serving(runner, _) => runner.server().is_finished(),
            _ => false,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        match &self.state {
            State::Serving(runner, _) => runner.server().counters(),
            _ => Counters::default(),
        }
    }

    pub(super) fn error(&self) -> &CStr {
        self.error.as_c_str()
    }

    /// Stores the message for `healthz_error`.
    pub(super) fn record(&mut self, error: CallError) -> HealthzResult {
        self.error = error.text;
        error.result
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Called after a panic. The state may be inconsistent, so every later call is refused.
    pub(super) fn mark_broken(&mut self) -> HealthzResult {
        self.is_broken = true;
        self.error = ErrorText::new(format_args!(
            "a bug in healthz {}: it panicked; the server no longer answers, destroy it",
            env!("CARGO_PKG_VERSION")
        ));
        HEALTHZ_BROKEN
    }
}

fn too_late() -> CallError {
    CallError::invalid(format_args!(
        "the server is already started; this call must come before healthz_start()"
    ))
}

fn too_early() -> CallError {
    CallError::invalid(format_args!(
        "the server is not started; call healthz_start() first"
    ))
}
