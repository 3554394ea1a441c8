/* healthz: answers /healthz, /livez and /readyz from your own event loop.
 *
 * Generated from src/capi/mod.rs by `make -C capi header`; edit that file, not this one.
 *
 * Order of calls: healthz_create(), healthz_add_...(), healthz_listen(), healthz_start(). After that, call
 * healthz_poll_once() each time that healthz_fd() is readable or healthz_timeout() has passed, and
 * healthz_destroy() at the end. capi/README.md has the shortest program, capi/example.c a longer one.
 *
 * Threads: only one thread at a time may call functions that take a server. Functions that take a
 * check may be called from any thread and from signal handlers, until the server is destroyed.
 *
 * Your process: the library starts no thread, raises no SIGPIPE, and opens descriptors close-on-exec.
 * It prints nothing, except the panic message of a bug. It keeps no pointer of yours, except the memory
 * given to healthz_create_in().
 *
 * Needs a C89 or C++98 compiler with <stdint.h>.
 */

#ifndef HEALTHZ_H
#define HEALTHZ_H

#include <stddef.h>
#include <stdint.h>

/* Flag of a check: it counts for `/healthz`. */
#define HEALTHZ_ON_HEALTHZ 1

/* Flag of a check: it counts for `/livez`. */
#define HEALTHZ_ON_LIVEZ 2

/* Flag of a check: it counts for `/readyz`. */
#define HEALTHZ_ON_READYZ 4

/* Flag of a check: it passes until its first healthz_beat(), healthz_pass() or healthz_fail(), however
 * late that is.
 */
#define HEALTHZ_INITIALLY_PASSING 8

/* The most checks that a server can have. */
#define HEALTHZ_CHECKS_MAX 256

/* Alignment of the memory given to healthz_create_in(), in bytes. */
#define HEALTHZ_MEMORY_ALIGN 64

/* The result of a call. */
enum healthz_result {
  /* The call succeeded. */
  HEALTHZ_OK = 0,
  /* An argument is NULL, out of range, or not a valid name or address; or the call came too early
   * or too late (see healthz_start()).
   */
  HEALTHZ_INVALID = 1,
  /* The memory given is too small or not aligned, or the heap has none left. */
  HEALTHZ_NO_MEMORY = 2,
  /* The system refused: the address is in use or not loopback, no descriptor is left, and so on. */
  HEALTHZ_SYSTEM = 3,
  /* A bug in healthz. The server no longer answers; destroy it. */
  HEALTHZ_BROKEN = 4
};

/* A server: its sockets, connections and checks. */
struct healthz;

/* A health check: a name, and whether it passes or fails. It belongs to its server and is valid until
 * that is destroyed.
 *
 * Every function that takes a check may be called from any thread and from a signal handler. It uses
 * only atomic integers and the clock, and it never waits or allocates.
 */
struct healthz_check;

/* Limits of a server. 0 selects the default, so a structure that is all zero is a good choice. */
struct healthz_options {
  /* Most open connections, 1 to 65,535 (default 64). When all are in use, a new connection replaces
   * an old one, usually the one that has been idle longest.
   */
  uint32_t connections;
  /* Longest request head in bytes, 512 to 65,535 (default 8,192). */
  uint32_t head_bytes;
  /* How many checks can be added, 1 to HEALTHZ_CHECKS_MAX (default 16). */
  uint32_t checks;
  /* Longest time for a request head to arrive, in milliseconds (default 10,000). */
  uint32_t head_ms;
  /* Longest time that a connection may stay open without a request, in milliseconds (default
   * 60,000).
   */
  uint32_t idle_ms;
  /* Longest time for a request body to arrive after its answer, for a client to close after the server,
   * and for requests in progress to finish after healthz_stop(), in milliseconds (default 2,000).
   */
  uint32_t drain_ms;
  /* If not 0, addresses that other machines can reach are allowed too. There is no
   * authentication.
   */
  int allow_remote;
  /* If not 0, `/metrics` and `/metrics/slis` are answered with metrics for Prometheus. All connections
   * share two buffers for long answers, which then have room for the metrics. Each connection takes no more
   * memory.
   */
  int metrics;
};

/* Counters of a server since it was started. All but `open` only grow. */
struct healthz_counters {
  /* Connections accepted, without those counted in `non_loopback`. */
  uint64_t accepted;
  /* Requests answered, including refused ones. */
  uint64_t answered;
  /* Requests whose head was malformed or too long, or did not arrive in time. */
  uint64_t refused;
  /* Connections that their client or the protocol closed, or the server when it stopped. */
  uint64_t closed;
  /* Connections closed to make room for a new one, or for a long answer to another one. */
  uint64_t evicted;
  /* Connections closed because a deadline passed. */
  uint64_t expired;
  /* Connections that ended with a socket error, such as a reset by the client. */
  uint64_t failed;
  /* Connections that had failed before they were accepted: reset by the client, refused by a firewall,
   * or lost with the network.
   */
  uint64_t aborted;
  /* Connections to a loopback address from a non-loopback address; closed without reading. */
  uint64_t non_loopback;
  /* How often accepting was paused because descriptors or memory were short or accept(2) kept failing. */
  uint64_t accept_pauses;
  /* Connections open now. */
  uint64_t open;
};

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/* The version of the library, such as "0.1.0". */
const char *healthz_version(void);

/* A short description of a result, never NULL. healthz_error() has the details. */
const char *healthz_strerror(int result);

/* How much memory a server with these options takes, in bytes; 0 if an option is out of range.
 * `options` may be NULL, for the defaults.
 *
 * The size depends on the options alone: nothing that clients do changes it. The server writes to a page of
 * its buffers only when a connection needs that page, so an idle server uses few pages.
 */
size_t healthz_memory_bytes(const struct healthz_options *options);

/* Creates a server in memory from the heap and stores it in `*server` (NULL if that fails). `options`
 * may be NULL, for the defaults.
 */
enum healthz_result healthz_create(const struct healthz_options *options,
                                   struct healthz **server);

/* Creates a server in `memory`, which is `bytes` long: at least healthz_memory_bytes(), and aligned to
 * HEALTHZ_MEMORY_ALIGN. It need not be zeroed. The server owns it until healthz_destroy(). On the heap it
 * keeps a few KiB for the list of events, from healthz_start(), and the path of each Unix socket.
 * healthz_listen() and errors of the system take a little more until the call returns.
 */
enum healthz_result healthz_create_in(const struct healthz_options *options,
                                      void *memory,
                                      size_t bytes,
                                      struct healthz **server);

/* Adds the check `ping`, which always passes: any answer shows that the server is running. */
enum healthz_result healthz_add_ping(struct healthz *server);

/* Adds a check that your program sets with healthz_pass() and healthz_fail(). Until the first of these
 * calls it fails with "not reported yet".
 *
 * `name` is 1 to 127 bytes of A-Z a-z 0-9 . _ / - and is copied. No other check of the server may have
 * it. `flags` is a sum of HEALTHZ_ON_... and HEALTHZ_INITIALLY_PASSING. Without any HEALTHZ_ON_..., the
 * check counts for all three endpoints. The check is stored in `*check`.
 */
enum healthz_result healthz_add_check(struct healthz *server,
                                      const char *name,
                                      uint32_t flags,
                                      const struct healthz_check **check);

/* Adds a check that fails when the last healthz_beat() was more than `limit_ms` milliseconds ago.
 *
 * Before the first beat it passes until `limit_ms` after healthz_start(), so a worker that ends before
 * its first beat is noticed. With HEALTHZ_INITIALLY_PASSING in `flags` it passes until the first beat.
 * The other arguments are as for healthz_add_check().
 *
 * If one loop both beats and calls healthz_poll_once(), beat before that call, and wait at most a third
 * of the limit. A loop that wakes up only for requests beats too late.
 */
enum healthz_result healthz_add_heartbeat(struct healthz *server,
                                          const char *name,
                                          uint32_t limit_ms,
                                          uint32_t flags,
                                          const struct healthz_check **check);

/* Listens on `address`: "127.0.0.1:10248", "[::1]:10248", "unix:/path" or "localhost:10248" (IPv4 and
 * IPv6, or the one that this machine has; healthz_missing() names the other). Port 0 selects a free port,
 * see healthz_port(). Call it before healthz_start(). A server can have up to 16
 * addresses, of which "localhost" is two.
 *
 * It fails, for example, if the address is in use. Check the result: if any other address could be used,
 * healthz_start() does not fail because of this one.
 */
enum healthz_result healthz_listen(struct healthz *server,
                                   const char *address);

/* The address of "localhost" that the last successful healthz_listen() left out, because this machine does
 * not have it, and the error of the system: "[::1]:10248: Cannot assign requested address (os error 99)",
 * for example. NULL if it left out none. Valid until the next healthz_listen() with this server.
 */
const char *healthz_missing(const struct healthz *server);

/* Serves on a socket that already listens, for example one from a service manager. The server owns `fd`
 * from now on, even if this call fails, unless `fd` is not open or is 0, 1 or 2, or the server is NULL or
 * broken.
 */
enum healthz_result healthz_listen_fd(struct healthz *server,
                                      int fd);

/* The port of the first TCP address; 0 if there is none. */
uint16_t healthz_port(struct healthz *server);

/* Starts the server. After this, checks and addresses cannot be added. If it fails because the system
 * refused, only healthz_error() and healthz_destroy() may follow.
 */
enum healthz_result healthz_start(struct healthz *server);

/* A descriptor that is readable (POLLIN, EPOLLIN) when healthz_poll_once() has work to do; -1 before
 * healthz_start(). The server owns it: watch it, but do not read from it or close it.
 */
int healthz_fd(struct healthz *server);

/* The longest time until healthz_poll_once() must be called again, in milliseconds, as poll(2) takes it; -1
 * for no limit.
 */
int healthz_timeout(struct healthz *server);

/* Waits for events for at most `timeout_ms` (0: do not wait, -1: no limit) and handles them: accepts
 * connections, reads requests and answers them. The amount of work is bounded. A signal ends the wait
 * early, with HEALTHZ_OK.
 *
 * If another process that shares the listening sockets has shut down all of them, this call fails once
 * the open connections have been served, and again each time after that.
 *
 * If `events` is not NULL, `*events` is the number of events handled. A loop that watches the
 * descriptor edge-triggered (EPOLLET) must call again until it is 0.
 */
enum healthz_result healthz_poll_once(struct healthz *server,
                                      int timeout_ms,
                                      size_t *events);

/* From now on the check `shutdown` fails, with the reason "process is shutting down". So `/readyz` fails, and
 * `OPTIONS /`, which is HAProxy's default check; all other answers stay as they were. Call it at SIGTERM, some
 * time before healthz_stop(), so that load balancers stop sending requests.
 */
enum healthz_result healthz_shutdown(struct healthz *server);

/* Stops the server gracefully. The next healthz_poll_once() stops listening, and requests in progress get
 * `drain_ms` to finish. Call healthz_poll_once() until healthz_is_finished() is not 0.
 */
enum healthz_result healthz_stop(struct healthz *server);

/* Not 0 if the server was stopped and has no open connection. */
int healthz_is_finished(struct healthz *server);

/* Copies the counters into `*counters`. */
enum healthz_result healthz_counters(struct healthz *server, struct healthz_counters *counters);

/* The error message of the last failed call with this server: what was tried, what went wrong and what
 * to do. Never NULL; valid until the next call with this server.
 */
const char *healthz_error(const struct healthz *server);

/* Closes all sockets and frees the memory of the server and its checks. For a graceful end call
 * healthz_stop() first. NULL does nothing.
 */
void healthz_destroy(struct healthz *server);

/* Sets the check to passing. May be called from any thread and any signal handler. */
void healthz_pass(const struct healthz_check *check);

/* Sets the check to failing. `reason` is copied, and the answer to /healthz/NAME has it: up to 255 bytes
 * of UTF-8, where invalid bytes become question marks. NULL means "failing". May be called from any
 * thread and any signal handler.
 */
void healthz_fail(const struct healthz_check *check,
                  const char *reason);

/* Reports a heartbeat: the check passes until its limit has passed from now. A check from
 * healthz_add_check() is set to passing. May be called from any thread and any signal handler.
 */
void healthz_beat(const struct healthz_check *check);

/* Not 0 if the check passes now. May be called from any thread and any signal handler. */
int healthz_passes(const struct healthz_check *check);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* HEALTHZ_H */
