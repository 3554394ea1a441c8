//! The server of `examples/smoltcp` on a Cortex-M, without an operating system. `.ci/small` runs it in qemu.
//!
//! `main` answers probes of a client in the same program. A timer interrupts it 25,000 times a second, and
//! updates both checks, so that some interrupts come while `main` reads them. The clock of the network is simulated.
#![no_std]
#![no_main]

#[path = "../../smoltcp/net.rs"]
mod net;
#[path = "../../smoltcp/server.rs"]
mod server;

use core::fmt::Write as _;
use core::time::Duration;

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{entry, exception};
use cortex_m_semihosting::{debug, hprintln};
use healthz::{Check, Endpoint, Instant, Responder};
use panic_semihosting as _;
use smoltcp::iface::{SocketSet, SocketStorage};
use smoltcp::socket::tcp::Socket;

use net::{Net, Wire};
use server::{HealthServer, Memory, PORT, SOCKETS};

const PROBES: u32 = 500;
/// Of the processor's clock, from one interrupt to the next: 40 µs at the 25 MHz of mps2-an386.
const TIMER_TICKS: u32 = 1000;

static TIMER: Check = Check::heartbeat("timer", Duration::from_secs(1));
static SENSOR: Check = Check::manual("sensor");
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&TIMER, &SENSOR]);

/// The timer interrupt: a beat each time, and another state of the sensor.
#[exception]
fn SysTick() {
    static mut COUNT: u64 = 0;
    *COUNT += 1;
    TIMER.beat(Instant::from_millis(*COUNT));
    if *COUNT % 2 == 0 {
        SENSOR.pass();
    } else {
        SENSOR.fail_fmt(format_args!("interrupt {COUNT} says so"));
    }
}

#[entry]
fn main() -> ! {
    static mut MEMORY: Memory = Memory::new();
    static mut WIRE: Wire = Wire::new();
    static mut CLIENT: ([u8; 1024], [u8; 1024]) = ([0; 1024], [0; 1024]);

    let mut timer = cortex_m::Peripherals::take().unwrap().SYST;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(TIMER_TICKS - 1);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();

    let (rx, tx) = CLIENT;
    let mut storage = [SocketStorage::EMPTY; SOCKETS + 1];
    let mut net = Net::new(WIRE, SocketSet::new(&mut storage[..]));
    let mut server = HealthServer::new(Responder::new(&ENDPOINTS), &mut net.sockets, MEMORY);
    let client = net.client(rx, tx);
    let turn = &mut |sockets: &mut SocketSet<'_>, now| server.turn(sockets, now);
    net.run_until_idle(turn);

    let (mut passed, mut failed) = (0, 0);
    for _ in 0..PROBES {
        net.connect(client, PORT);
        net.run_until_idle(turn);
        let socket = net.sockets.get_mut::<Socket>(client);
        write!(socket, "GET /healthz/sensor HTTP/1.0\r\n\r\n").unwrap();
        net.run_until_idle(turn);
        let mut answer = [0; 1024];
        let socket = net.sockets.get_mut::<Socket>(client);
        let size = socket.recv_slice(&mut answer).unwrap();
        let answer = core::str::from_utf8(&answer[..size]).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 200 OK\r\n") {
            assert_eq!(body, "ok");
            passed += 1;
        } else {
            assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
            let reason = body.strip_prefix("internal server error: ").unwrap();
            // Whole, though the interrupt replaces it all the time.
            let is_whole = reason.starts_with("interrupt ") && reason.ends_with(" says so\n");
            assert!(is_whole || reason == "not reported yet\n", "{reason}");
            failed += 1;
        }
        net.sockets.get_mut::<Socket>(client).close();
        net.run_until_idle(turn);
        net.advance(1, turn);
    }
    let interrupts = TIMER.last_beat().unwrap().as_millis();
    hprintln!(
        "{} probes and {} interrupts: {} times ok, {} times the reason",
        PROBES, interrupts, passed, failed
    );
    debug::exit(debug::EXIT_SUCCESS);
    loop {}
}
