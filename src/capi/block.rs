//! A door and all that it needs, in one block of memory.
//!
//! ```text
//! Door | names | checks | lists of checks | endpoints | slots | heads | bytes for heads and answers
//! ```
//!
//! Everything behind the [`Door`] is referred to as `'static`, because that is what the library wants
//! of what it answers with. It is as good as that: nothing refers to the block but what lives in it,
//! and what C holds of it, a door and its checks, C has promised to forget before the block goes.

use core::alloc::Layout;
use core::ffi::CStr;
use core::ptr;
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd};

use super::HealthzResult::{self, HEALTHZ_BROKEN, HEALTHZ_INVALID, HEALTHZ_NO_MEMORY};
use super::text::{Problem, Text};
use super::{
    HEALTHZ_CHECKS_MAX, HEALTHZ_MEMORY_ALIGN, HEALTHZ_ON_HEALTHZ, HEALTHZ_ON_LIVEZ,
    HEALTHZ_ON_READYZ, HealthzCheck, HealthzOptions,
};
use crate::answer::Responder;
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{
    CHECK_NAME_BYTES_MAX, CONNECTIONS_MAX, Limits, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN,
};
use crate::server::{
    Address, Config, Counters, Listeners, Memory, Runner, Server, ServerHandle, Slot, now,
};

const CHECKS_DEFAULT: usize = 16;
/// The door's own, `shutdown`.
const CHECKS_OWN: usize = 1;
const CHECKS_MAX: usize = HEALTHZ_CHECKS_MAX as usize;
/// Where a check can count, in the order of endpoints.
const ENDPOINTS: [(u32, &str); 3] = [
    (HEALTHZ_ON_HEALTHZ, "/healthz"),
    (HEALTHZ_ON_LIVEZ, "/livez"),
    (HEALTHZ_ON_READYZ, "/readyz"),
];
const EVERYWHERE: u32 = HEALTHZ_ON_HEALTHZ | HEALTHZ_ON_LIVEZ | HEALTHZ_ON_READYZ;

/// What the longest answers are reckoned with: every check with the longest name.
static LONGEST: Check = Check::manual(match core::str::from_utf8(&[b'x'; CHECK_NAME_BYTES_MAX]) {
    Ok(name) => name,
    Err(_) => "",
});
static LONGEST_LIST: [&Check; CHECKS_MAX + CHECKS_OWN] = [&LONGEST; CHECKS_MAX + CHECKS_OWN];

type Name = [u8; CHECK_NAME_BYTES_MAX];
type List = *mut &'static Check;

/// A door. Its memory is the block that it stands at the beginning of.
pub struct Door {
    life: Life,
    is_broken: bool,
    error: Text,
    parts: Parts,
    checks_max: usize,
    /// Checks so far, the door's own included.
    checks: usize,
    /// Of them in each endpoint's list.
    listed: [usize; ENDPOINTS.len()],
    limits: Limits,
    connections: usize,
    /// How to give the block back, if it is from the heap.
    owned: Option<Layout>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and room for it was made"
)]
enum Life {
    Made(Listeners),
    Serving(Runner<'static>, ServerHandle),
    /// It could not be started.
    Ended,
}

/// Options within their bounds.
pub(super) struct Settings {
    config: Config,
    checks_max: usize,
    allows_remote: bool,
}

impl Settings {
    /// `None` if one is out of its bounds.
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
        })
    }

    /// Of the block.
    pub(super) fn layout(&self) -> Option<Layout> {
        Some(self.plan()?.layout)
    }

    /// Where everything stands. `None` if it is more than there can be.
    fn plan(&self) -> Option<Plan> {
        let checks = self.checks_max + CHECKS_OWN;
        let checks_list = LONGEST_LIST.get(..checks)?;
        let endpoint = [Endpoint::with_any_names("/healthz", checks_list)];
        let bytes = self.config.buffer_bytes(&Responder::new(&endpoint));
        let mut layout = Layout::new::<Door>()
            .align_to(HEALTHZ_MEMORY_ALIGN as usize)
            .ok()?;
        let mut behind = |part: Layout| -> Option<usize> {
            let (longer, offset) = layout.extend(part).ok()?;
            layout = longer;
            Some(offset)
        };
        Some(Plan {
            names: behind(Layout::array::<Name>(checks).ok()?)?,
            checks: behind(Layout::array::<HealthzCheck>(checks).ok()?)?,
            lists: behind(Layout::array::<&Check>(checks * ENDPOINTS.len()).ok()?)?,
            endpoints: behind(Layout::new::<[Endpoint<'_>; ENDPOINTS.len()]>())?,
            slots: behind(Layout::array::<Slot>(self.config.connections).ok()?)?,
            heads: behind(Layout::new::<HeadCache>())?,
            bytes: behind(Layout::array::<u8>(bytes).ok()?)?,
            bytes_count: bytes,
            layout: layout.pad_to_align(),
        })
    }
}

/// Offsets in the block.
struct Plan {
    names: usize,
    checks: usize,
    lists: usize,
    endpoints: usize,
    slots: usize,
    heads: usize,
    bytes: usize,
    bytes_count: usize,
    layout: Layout,
}

/// Where the block's parts are. They are the door's alone, and not initialized before it says so.
struct Parts {
    names: *mut Name,
    checks: *mut HealthzCheck,
    lists: [List; ENDPOINTS.len()],
    endpoints: *mut [Endpoint<'static>; ENDPOINTS.len()],
    slots: *mut Slot,
    heads: *mut HeadCache,
    bytes: *mut u8,
    bytes_count: usize,
}

/// Room for the name of the check that is being added.
pub(super) struct NameRoom(*mut Name);

impl NameRoom {
    /// Keeps a copy of a name.
    pub(super) fn keep(self, name: &str) -> Result<&'static str, Problem> {
        if !Check::is_name(name) {
            return Err(Problem::invalid(format_args!(
                "{name:?} is no name of a check: 1 to 127 bytes of A-Z a-z 0-9 . _ / -"
            )));
        }
        // SAFETY: the room is part of the block, nobody refers to it yet, and a valid name fits.
        unsafe {
            ptr::copy_nonoverlapping(name.as_ptr(), self.0.cast(), name.len());
            let kept = core::slice::from_raw_parts(self.0.cast::<u8>(), name.len());
            // It was text before.
            Ok(core::str::from_utf8_unchecked(kept))
        }
    }
}

impl Door {
    /// In a block of its own.
    pub(super) fn on_heap(settings: Settings) -> Result<*mut Door, HealthzResult> {
        let layout = settings.layout().ok_or(HEALTHZ_NO_MEMORY)?;
        // SAFETY: a door is not nothing, so the layout is not either.
        let block = unsafe { std::alloc::alloc_zeroed(layout) };
        if block.is_null() {
            return Err(HEALTHZ_NO_MEMORY);
        }
        // SAFETY: just made with this layout.
        match unsafe { Door::place(settings, block, Some(layout)) } {
            Some(door) => Ok(door),
            None => {
                // SAFETY: as above, and nothing refers to it.
                unsafe { std::alloc::dealloc(block, layout) };
                Err(HEALTHZ_BROKEN)
            }
        }
    }

    /// In a block of its caller's.
    ///
    /// # Safety
    /// `block` is null, or has so many `bytes` that are the door's alone until it is destroyed.
    pub(super) unsafe fn in_memory(
        settings: Settings,
        block: *mut u8,
        bytes: usize,
    ) -> Result<*mut Door, HealthzResult> {
        if block.is_null() {
            return Err(HEALTHZ_INVALID);
        }
        let layout = settings.layout().ok_or(HEALTHZ_NO_MEMORY)?;
        if bytes < layout.size() || block.align_offset(layout.align()) != 0 {
            return Err(HEALTHZ_NO_MEMORY);
        }
        // SAFETY: large enough, aligned, and the door's alone.
        unsafe { Door::place(settings, block, None) }.ok_or(HEALTHZ_BROKEN)
    }

    /// # Safety
    /// `block` fits the layout of the settings and is the door's alone until it is destroyed.
    unsafe fn place(
        settings: Settings,
        block: *mut u8,
        owned: Option<Layout>,
    ) -> Option<*mut Door> {
        let plan = settings.plan()?;
        let checks = settings.checks_max + CHECKS_OWN;
        // SAFETY: the plan's offsets are within the block, and aligned for what they are of. The lists
        // stand one behind the other, each with room for all checks.
        let parts = unsafe {
            let lists: List = block.add(plan.lists).cast();
            Parts {
                names: block.add(plan.names).cast(),
                checks: block.add(plan.checks).cast(),
                lists: [lists, lists.add(checks), lists.add(2 * checks)],
                endpoints: block.add(plan.endpoints).cast(),
                slots: block.add(plan.slots).cast(),
                heads: block.add(plan.heads).cast(),
                bytes: block.add(plan.bytes).cast(),
                bytes_count: plan.bytes_count,
            }
        };
        let mut made = Door {
            life: Life::Made(Listeners::new().allow_remote(settings.allows_remote)),
            is_broken: false,
            error: Text::new(format_args!("no call has failed")),
            parts,
            checks_max: checks,
            checks: 0,
            listed: [0; ENDPOINTS.len()],
            limits: settings.config.limits,
            connections: settings.config.connections,
            owned,
        };
        // Its clock's first call may wait for another thread's; later ones may be made in handlers.
        let _ = now();
        let shutdown = || Ok(Check::shutdown().unlisted_while_passing());
        made.add(HEALTHZ_ON_READYZ, |_| shutdown()).ok()?;
        let door: *mut Door = block.cast();
        // SAFETY: the plan has a door's room at the beginning.
        unsafe { door.write(made) };
        Some(door)
    }

    /// # Safety
    /// Nobody uses the door nor its checks any more.
    pub(super) unsafe fn destroy(door: *mut Door) {
        // SAFETY: it lives, as our caller promises, and is not used after this. Its server goes first,
        // and with that every reference into the block. Checks have nothing to drop.
        unsafe {
            let owned = (*door).owned;
            door.drop_in_place();
            if let Some(layout) = owned {
                std::alloc::dealloc(door.cast(), layout);
            }
        }
    }

    /// Adds the check that `make` makes to the endpoints, 0 for all of them.
    pub(super) fn add(
        &mut self,
        endpoints: u32,
        make: impl FnOnce(NameRoom) -> Result<Check, Problem>,
    ) -> Result<&'static HealthzCheck, Problem> {
        let Life::Made(_) = self.life else {
            return Err(too_late());
        };
        if endpoints & !EVERYWHERE != 0 {
            return Err(Problem::invalid(format_args!(
                "{endpoints:#x} is no sum of HEALTHZ_ON_..."
            )));
        }
        if self.checks >= self.checks_max {
            return Err(Problem::invalid(format_args!(
                "there are {} checks already; ask for more with the option checks",
                self.checks_max - CHECKS_OWN
            )));
        }
        // SAFETY: so many checks were written, one behind the other, and there is room for one more,
        // with its name, that nobody refers to.
        let (taken, room, place) = unsafe {
            (
                core::slice::from_raw_parts(self.parts.checks, self.checks),
                self.parts.names.add(self.checks),
                self.parts.checks.add(self.checks),
            )
        };
        let check = make(NameRoom(room))?;
        if let Some(other) = taken.iter().find(|other| other.0.name() == check.name()) {
            return Err(Problem::invalid(format_args!(
                "there is a check {:?} already",
                other.0.name()
            )));
        }
        // SAFETY: as above. From here on it is only ever shared.
        let check: &'static HealthzCheck = unsafe {
            place.write(HealthzCheck(check));
            &*place
        };
        self.checks += 1;
        let endpoints = if endpoints == 0 {
            EVERYWHERE
        } else {
            endpoints
        };
        let lists = self.parts.lists.iter().zip(&mut self.listed);
        for ((list, count), (endpoint, _)) in lists.zip(ENDPOINTS) {
            if endpoints & endpoint != 0 {
                // SAFETY: a list has room for all checks, and a check is in it once.
                unsafe { list.add(*count).write(&check.0) };
                *count += 1;
            }
        }
        Ok(check)
    }

    /// To add to.
    pub(super) fn listeners(&mut self) -> Result<&mut Listeners, Problem> {
        match &mut self.life {
            Life::Made(listeners) => Ok(listeners),
            _ => Err(too_late()),
        }
    }

    pub(super) fn start(&mut self) -> Result<(), Problem> {
        let Life::Made(listeners) = &mut self.life else {
            return Err(too_late());
        };
        if listeners.is_empty() {
            return Err(Problem::invalid(format_args!(
                "there is no address to serve on; call healthz_listen() first"
            )));
        }
        let listeners = core::mem::take(listeners);
        self.life = Life::Ended;
        let [healthz, livez, readyz] = [0, 1, 2].map(|index| self.endpoint(index));
        let endpoints = [healthz?, livez?, readyz?];
        let parts = &self.parts;
        // SAFETY: parts of the block that nobody refers to yet, each written before it is referred to;
        // but for the bytes, which are zero from the heap, and whatever C left in memory of its own.
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
        let server = Server::with_memory(Responder::new(endpoints), listeners, self.limits, memory);
        let runner = Runner::new(server)
            .map_err(|error| Problem::system(format_args!("cannot watch the sockets: {error}")))?;
        let handle = runner.handle();
        self.life = Life::Serving(runner, handle);
        Ok(())
    }

    fn endpoint(&self, index: usize) -> Result<Endpoint<'static>, Problem> {
        let parts = self.parts.lists.iter().zip(self.listed).zip(ENDPOINTS);
        let Some(((list, count), (_, path))) = parts.into_iter().nth(index) else {
            return Err(Problem::invalid(format_args!("there is no such endpoint")));
        };
        // SAFETY: so many were written, and nobody writes to them any more.
        let checks = unsafe { core::slice::from_raw_parts(*list, count) };
        Ok(Endpoint::new(path, checks))
    }

    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> Result<usize, Problem> {
        let runner = self.runner()?;
        let turned = runner.poll_once(timeout);
        turned.map_err(|error| Problem::system(format_args!("cannot wait for events: {error}")))
    }

    pub(super) fn stop(&mut self) -> Result<(), Problem> {
        match &self.life {
            Life::Serving(_, handle) => {
                handle.stop();
                Ok(())
            }
            _ => Err(too_early()),
        }
    }

    pub(super) fn begin_shutdown(&self) {
        // SAFETY: the first check is the door's own, written when it was placed.
        unsafe { &*self.parts.checks }.0.begin_shutdown();
    }

    fn runner(&mut self) -> Result<&mut Runner<'static>, Problem> {
        match &mut self.life {
            Life::Serving(runner, _) => Ok(runner),
            _ => Err(too_early()),
        }
    }

    pub(super) fn port(&self) -> u16 {
        let port = |address| match address {
            Address::Tcp(address) => Some(address.port()),
            _ => None,
        };
        let port = match &self.life {
            Life::Made(listeners) => listeners.local_addresses().find_map(port),
            Life::Serving(runner, _) => runner.server().local_addr().map(|address| address.port()),
            Life::Ended => None,
        };
        port.unwrap_or(0)
    }

    pub(super) fn fd(&self) -> i32 {
        match &self.life {
            Life::Serving(runner, _) => runner.as_fd().as_raw_fd(),
            _ => -1,
        }
    }

    pub(super) fn timeout(&self) -> i32 {
        let timeout = match &self.life {
            Life::Serving(runner, _) => runner.timeout(),
            _ => None,
        };
        timeout.map_or(-1, |wait| {
            i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        match &self.life {
            Life::Serving(runner, _) => runner.server().is_finished(),
            _ => false,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        match &self.life {
            Life::Serving(runner, _) => runner.server().counters(),
            _ => Counters::default(),
        }
    }

    pub(super) fn error(&self) -> &CStr {
        self.error.as_c_str()
    }

    pub(super) fn keep(&mut self, problem: Problem) -> HealthzResult {
        self.error = problem.text;
        problem.result
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// It panicked somewhere: nothing is known of what it was doing, so it does nothing more.
    pub(super) fn is_now_broken(&mut self) -> HealthzResult {
        self.is_broken = true;
        self.error = Text::new(format_args!(
            "a bug in healthz {}; the door answers nobody any more",
            env!("CARGO_PKG_VERSION")
        ));
        HEALTHZ_BROKEN
    }
}

fn too_late() -> Problem {
    Problem::invalid(format_args!("the door has been started already"))
}

fn too_early() -> Problem {
    Problem::invalid(format_args!("the door has not been started"))
}
