// healthz: /healthz, /livez and /readyz, answered from your own loop.
// Made from src/capi/mod.rs by `make -C capi header`; changes belong there.
//
// In this order: healthz_create(), healthz_add_...(), healthz_listen(), healthz_start(); then,
// whenever healthz_fd() is readable or healthz_timeout() is over, healthz_turn(); at the end
// healthz_destroy(). capi/example.c is a whole program.
//
// Functions that take a door are called by one thread at a time; those that take a check by any
// thread, and in signal handlers, as long as the door lives. No pointer of yours is kept, but for
// the memory given to healthz_create_in(). SIGPIPE is not raised, no thread is started, nothing is
// printed (but for a bug's last words), and no descriptor is inherited by children.

#ifndef HEALTHZ_H
#define HEALTHZ_H

#include <stddef.h>
#include <stdint.h>

// The check decides the answer of `/healthz`.
#define HEALTHZ_ON_HEALTHZ 1

// The check decides the answer of `/livez`.
#define HEALTHZ_ON_LIVEZ 2

// The check decides the answer of `/readyz`.
#define HEALTHZ_ON_READYZ 4

// Most checks of a door.
#define HEALTHZ_CHECKS_MAX 256

// What a door's memory has to be a multiple of, in bytes.
#define HEALTHZ_MEMORY_ALIGN 64

// What came of a call.
enum healthz_result {
  // It was done.
  HEALTHZ_OK = 0,
  // An argument is NULL, out of its bounds, or no name or address; or the call comes too early or
  // too late in a door's life.
  HEALTHZ_INVALID = 1,
  // The memory given is too small or not aligned, or there is none.
  HEALTHZ_NO_MEMORY = 2,
  // The system refused: an address in use or not loopback, no more descriptors, and so on.
  HEALTHZ_SYSTEM = 3,
  // healthz itself was wrong somewhere. The door answers nobody any more; destroy it.
  HEALTHZ_BROKEN = 4,
};

// A door. Its memory is the block that it stands at the beginning of.
struct healthz;

// A named fact about your program: it passes or fails. It lives in its door, and as long.
//
// Every function that takes one may be called from any thread and from a signal handler: it is a few
// atomic stores, waits for nobody and calls nothing.
struct healthz_check;

// What a door may cost. All zero is a good choice: every 0 stands for the default.
struct healthz_options {
  // Connections at once, 1 to 65,535 (64). One more evicts the one that was idle longest.
  uint32_t connections;
  // Longest request head in bytes, 512 to 65,535 (8,192).
  uint32_t head_bytes;
  // How many checks can be added, 1 to HEALTHZ_CHECKS_MAX (16).
  uint32_t checks;
  // Longest time for a request head to arrive, in milliseconds (10,000).
  uint32_t head_ms;
  // Longest time without a request, in milliseconds (60,000).
  uint32_t idle_ms;
  // Longest time for the last requests after healthz_stop(), in milliseconds (2,000).
  uint32_t drain_ms;
  // Other than 0: addresses that other machines can reach are taken too. There is no
  // authentication.
  int allow_remote;
};

// What a door has seen since it was started. All but `open` only ever grow.
struct healthz_counters {
  // Connections accepted, foreign ones apart.
  uint64_t accepted;
  // Requests answered, refused ones included.
  uint64_t answered;
  // Requests whose head was not acceptable, or did not come in time.
  uint64_t refused;
  // Connections closed because the table was full.
  uint64_t evicted;
  // Connections closed because a deadline passed.
  uint64_t expired;
  // Connections that ended in an error of the socket, such as a reset by the peer.
  uint64_t failed;
  // Connections that were gone when they were to be accepted.
  uint64_t aborted;
  // Connections to a loopback address from one that is none, closed unread.
  uint64_t foreign;
  // Spells in which accepting was paused because the system was short of something.
  uint64_t accept_pauses;
  // Connections in the table now.
  uint64_t open;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, such as "0.1.0".
const char *healthz_version(void);

// A result in words, never NULL. healthz_error() says more.
const char *healthz_strerror(int result);

// How much memory a door with these options takes, in bytes; 0 if they are out of their bounds.
// `options` may be NULL, for the defaults.
//
// It is the most that all peers together can make it use, and what is not used is never touched: a
// door at rest stays at a few pages.
size_t healthz_memory_bytes(const struct healthz_options *options);

// Makes a door in memory from the heap, and puts it into `*door` (NULL if that fails). `options` may
// be NULL.
enum healthz_result healthz_create(const struct healthz_options *options,
                                   struct healthz **door);

// Makes a door in `memory`, which has `bytes` of it, at least healthz_memory_bytes() and aligned to
// HEALTHZ_MEMORY_ALIGN. It need not be zero, and belongs to the door until that is destroyed. From
// the heap comes only the list of events that the loop fills, a few KiB, in healthz_start().
enum healthz_result healthz_create_in(const struct healthz_options *options,
                                      void *memory,
                                      size_t bytes,
                                      struct healthz **door);

// Adds the check `ping`, which always passes: that it is answered at all is the news.
enum healthz_result healthz_add_ping(struct healthz *door);

// Adds a check that is what was last said by healthz_pass() or healthz_fail(). Before the first word
// it fails with "not reported yet".
//
// `name` is 1 to 127 bytes of A-Z a-z 0-9 . _ / - and is copied; no other check has it. `endpoints`
// says where it counts, as a sum of HEALTHZ_ON_...; 0 is everywhere. The check is put into `*check`.
enum healthz_result healthz_add_check(struct healthz *door,
                                      const char *name,
                                      uint32_t endpoints,
                                      const struct healthz_check **check);

// Adds a check that passes while the last healthz_beat() is younger than `limit_ms` milliseconds.
// Before the first beat it passes until `limit_ms` after healthz_start(). The rest is as with
// healthz_add_check().
enum healthz_result healthz_add_heartbeat(struct healthz *door,
                                          const char *name,
                                          uint32_t limit_ms,
                                          uint32_t endpoints,
                                          const struct healthz_check **check);

// Listens on `address`: "127.0.0.1:10248", "[::1]:10248", "localhost:10248" (both of them, or the one
// that this machine has) or "unix:/path". Port 0 is any free one, see healthz_port(). Only before
// healthz_start(); up to 16 times.
enum healthz_result healthz_listen(struct healthz *door,
                                   const char *address);

// Takes over a socket that listens already, for example from a service manager. The door owns `fd`
// from here on, also when this fails, unless it is not open or is a standard stream.
enum healthz_result healthz_listen_fd(struct healthz *door, int fd);

// The port of the first address with one; 0 if there is none.
uint16_t healthz_port(struct healthz *door);

// Begins to serve. Checks and addresses cannot be added any more. If it fails, only healthz_error()
// and healthz_destroy() are left.
enum healthz_result healthz_start(struct healthz *door);

// A descriptor that is readable (POLLIN, EPOLLIN) when there is something for healthz_turn() to do;
// -1 before healthz_start(). It stays the door's: only watch it.
int healthz_fd(struct healthz *door);

// When healthz_turn() has to be called at the latest, in milliseconds from now; -1 if only the
// descriptor matters. What poll(2) takes.
int healthz_timeout(struct healthz *door);

// Does what there is to do, after waiting for it for at most `timeout_ms` (0: not at all, -1: for
// ever). A bounded amount of work. Signals make it return early, with HEALTHZ_OK. If somebody else
// who holds the listening sockets has shut down the last of them, it fails once whoever was connected
// has been served, and then every time.
//
// `*events`, if `events` is not NULL, tells how much there was. A loop that is told only once
// (EPOLLET) calls again until it is 0.
enum healthz_result healthz_turn(struct healthz *door,
                                 int timeout_ms,
                                 size_t *events);

// From now on `/readyz` fails with "process is shutting down", and everything else is answered as
// before. For the time between SIGTERM and healthz_stop(), in which others learn of it.
enum healthz_result healthz_shutdown(struct healthz *door);

// Closes the door in good order: with the next healthz_turn() it stops listening, and requests that
// are under way have `drain_ms` to end. healthz_is_finished() tells when they have.
enum healthz_result healthz_stop(struct healthz *door);

// Other than 0 if the door was stopped and has no connection left.
int healthz_is_finished(struct healthz *door);

// Copies what the door has seen into `*counters`.
enum healthz_result healthz_counters(struct healthz *door, struct healthz_counters *counters);

// Why the door's last call that failed did so, for people: what was tried, what was wrong, what to
// do. Never NULL; valid until the next call with this door.
const char *healthz_error(const struct healthz *door);

// Closes the door at once, if healthz_stop() has not, and gives its memory back, the checks' too.
// NULL does nothing.
void healthz_destroy(struct healthz *door);

// The check passes until told otherwise. From any thread and any signal handler.
void healthz_pass(const struct healthz_check *check);

// The check fails until told otherwise, because of `reason`: up to 255 bytes of UTF-8, copied, shown
// under /healthz/NAME. What is not UTF-8 becomes a question mark. NULL is "failing". From any thread
// and any signal handler.
void healthz_fail(const struct healthz_check *check,
                  const char *reason);

// A heartbeat passes until its limit from now; another check passes. From any thread and any signal
// handler.
void healthz_beat(const struct healthz_check *check);

// Other than 0 if the check passes now. From any thread and any signal handler.
int healthz_passes(const struct healthz_check *check);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HEALTHZ_H */
