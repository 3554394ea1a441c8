// Tests of the C API: uses and misuses every function of healthz.h. Prints each failed check and exits
// with 1 if there is one. capi/check runs it under valgrind.

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <healthz.h>

static int failures;

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			printf("%s:%d: failed: %s\n", __func__, __LINE__, #condition); \
			failures++; \
		} \
	} while (0)

/* The error message of the server contains `part`. */
#define CHECK_ERROR(server, part) \
	do { \
		if (!strstr(healthz_error(server), part)) { \
			printf("%s:%d: expected \"%s\" in the error \"%s\"\n", __func__, __LINE__, part, \
			       healthz_error(server)); \
			failures++; \
		} \
	} while (0)

static struct healthz *create(const struct healthz_options *options)
{
	struct healthz *server = NULL;
	CHECK(healthz_create(options, &server) == HEALTHZ_OK);
	if (!server)
		exit(1);
	return server;
}

static int connect_client(struct healthz *server)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(healthz_port(server))};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
	return fd;
}

// The whole response to GET `path`. The calling thread is the client and also runs the server.
static const char *get(struct healthz *server, const char *path)
{
	static char response[16384];
	char request[256];
	int fd = connect_client(server);
	int size = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\n\r\n", path);
	CHECK(send(fd, request, (size_t)size, 0) == size);
	size_t used = 0;
	for (int tries = 0; tries < 1000; tries++) {
		CHECK(healthz_poll_once(server, 10, NULL) == HEALTHZ_OK);
		ssize_t count =
			recv(fd, response + used, sizeof response - 1 - used, MSG_DONTWAIT);
		if (count == 0)
			break;
		if (count > 0)
			used += (size_t)count;
	}
	response[used] = 0;
	close(fd);
	return response;
}

/* The response to GET `path` contains `part`. */
#define CHECK_RESPONSE(server, path, part) \
	do { \
		const char *response = get(server, path); \
		if (!strstr(response, part)) { \
			printf("%s:%d: expected \"%s\" in the response to %s: %s\n", __func__, __LINE__, \
			       part, path, response); \
			failures++; \
		} \
	} while (0)

static void responses_report_the_checks(void)
{
	struct healthz *server = create(NULL);
	const struct healthz_check *disk, *loop, *ready;
	CHECK(healthz_add_ping(server) == HEALTHZ_OK);
	CHECK(healthz_add_check(server, "disk", 0, &disk) == HEALTHZ_OK);
	CHECK(healthz_add_heartbeat(server, "loop", 3600000, HEALTHZ_ON_HEALTHZ, &loop) == HEALTHZ_OK);
	CHECK(healthz_add_check(server, "ready", HEALTHZ_ON_READYZ, &ready) == HEALTHZ_OK);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_fd(server) == -1);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	CHECK(healthz_fd(server) > 2);
	CHECK(fcntl(healthz_fd(server), F_GETFD) == FD_CLOEXEC);
	CHECK(!healthz_passes(disk) && healthz_passes(loop));

	CHECK_RESPONSE(server, "/healthz/disk", "500 Internal Server Error");
	CHECK_RESPONSE(server, "/healthz/disk", "internal server error: not reported yet\n");
	healthz_pass(disk);
	CHECK_RESPONSE(server, "/healthz", "\r\n\r\nok");
	CHECK_RESPONSE(server, "/readyz", "[-]ready failed: reason withheld\n");
	CHECK_RESPONSE(server, "/livez?verbose", "[+]ping ok\n[+]disk ok\nlivez check passed\n");
	CHECK_RESPONSE(server, "/livez/loop", "404");
	healthz_fail(disk, "/var: 99 % full");
	CHECK(!healthz_passes(disk));
	CHECK_RESPONSE(server, "/healthz/disk", "internal server error: /var: 99 % full\n");
	healthz_fail(disk, "caf\xc3\xa9 \xff\xfe.");
	CHECK_RESPONSE(server, "/healthz/disk", "internal server error: caf\xc3\xa9 ??.\n");
	healthz_fail(disk, NULL);
	CHECK_RESPONSE(server, "/healthz/disk", "internal server error: failing\n");
	char reason[400];
	memset(reason, 'x', sizeof reason);
	memcpy(reason + 254, "\xc3\xa9", 2);
	reason[sizeof reason - 1] = 0;
	healthz_fail(disk, reason);
	// Cut at 255 bytes, or before the character that would exceed them.
	char expected[400];
	snprintf(expected, sizeof expected, "internal server error: %.254s\n", reason);
	CHECK_RESPONSE(server, "/healthz/disk", expected);
	healthz_beat(disk);
	healthz_pass(ready);
	CHECK_RESPONSE(server, "/readyz?verbose", "[+]ready ok\nreadyz check passed\n");

	CHECK(healthz_shutdown(server) == HEALTHZ_OK);
	CHECK_RESPONSE(server, "/readyz/shutdown", "process is shutting down");
	CHECK_RESPONSE(server, "/healthz", "\r\n\r\nok");
	struct healthz_counters counters;
	CHECK(healthz_counters(server, &counters) == HEALTHZ_OK);
	CHECK(counters.answered == 13 && counters.accepted == 13 && counters.refused == 0);
	int idle = connect_client(server);
	CHECK(healthz_poll_once(server, 1000, NULL) == HEALTHZ_OK);
	CHECK(!healthz_is_finished(server));
	CHECK(healthz_stop(server) == HEALTHZ_OK);
	for (int count = 0; count < 1000 && !healthz_is_finished(server); count++)
		healthz_poll_once(server, 10, NULL);
	CHECK(healthz_is_finished(server));
	close(idle);
	healthz_destroy(server);
}

static void a_heartbeat_before_its_first_beat_passes_until_its_limit_or_without_limit(void)
{
	struct healthz *server = create(NULL);
	const struct healthz_check *limited, *unlimited, *manual;
	CHECK(healthz_add_heartbeat(server, "limited", 1, 0, &limited) == HEALTHZ_OK);
	CHECK(healthz_add_heartbeat(server, "unlimited", 1, HEALTHZ_ON_LIVEZ | HEALTHZ_INITIALLY_PASSING,
				    &unlimited) == HEALTHZ_OK);
	CHECK(healthz_add_check(server, "manual", HEALTHZ_INITIALLY_PASSING, &manual) == HEALTHZ_OK);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_passes(limited) && healthz_passes(unlimited) && healthz_passes(manual));
	CHECK(healthz_start(server) == HEALTHZ_OK);
	for (int count = 0; count < 10000 && healthz_passes(limited); count++)
		CHECK(healthz_poll_once(server, 1, NULL) == HEALTHZ_OK);
	CHECK(!healthz_passes(limited) && healthz_passes(unlimited) && healthz_passes(manual));
	// Without HEALTHZ_ON_..., a check counts for all endpoints; with one, for that endpoint.
	CHECK_RESPONSE(server, "/livez?verbose", "[-]limited failed: reason withheld\n[+]unlimited ok\n[+]manual ok\n");
	CHECK_RESPONSE(server, "/healthz/manual", "\r\n\r\nok");
	CHECK_RESPONSE(server, "/healthz/unlimited", "404");
	healthz_beat(unlimited);
	for (int count = 0; count < 10000 && healthz_passes(unlimited); count++)
		CHECK(healthz_poll_once(server, 1, NULL) == HEALTHZ_OK);
	CHECK(!healthz_passes(unlimited));
	healthz_fail(manual, "reported");
	CHECK(!healthz_passes(manual));
	healthz_destroy(server);
}

static void a_server_works_in_memory_of_the_caller(void)
{
	struct healthz_options options = {.connections = 4, .head_bytes = 512, .checks = 2};
	size_t bytes = healthz_memory_bytes(&options);
	CHECK(bytes > 4 * 512 && bytes < 128 * 1024);
	char *memory = aligned_alloc(HEALTHZ_MEMORY_ALIGN, bytes);
	memset(memory, 0xa5, bytes);
	struct healthz *server = (void *)1;
	CHECK(healthz_create_in(&options, memory, bytes - 1, &server) == HEALTHZ_NO_MEMORY);
	CHECK(server == NULL);
	CHECK(healthz_create_in(&options, memory + 1, bytes, &server) == HEALTHZ_NO_MEMORY);
	CHECK(healthz_create_in(&options, NULL, bytes, &server) == HEALTHZ_INVALID);
	// Twice: the second server finds the bytes that the first one left.
	for (int count = 0; count < 2; count++) {
		const struct healthz_check *check;
		char name[128];
		memset(name, 'n', 127);
		name[127] = 0;
		CHECK(healthz_create_in(&options, memory, bytes, &server) == HEALTHZ_OK);
		CHECK(healthz_add_check(server, name, 0, &check) == HEALTHZ_OK);
		CHECK((char *)check >= memory && (char *)check < memory + bytes);
		name[0] = 'm';
		CHECK(healthz_add_check(server, name, 0, &check) == HEALTHZ_OK);
		CHECK(healthz_add_check(server, "more", 0, &check) == HEALTHZ_INVALID);
		CHECK_ERROR(server, "there are 2 checks already; raise `checks`");
		CHECK(healthz_listen(server, "localhost:0") == HEALTHZ_OK);
		CHECK(healthz_start(server) == HEALTHZ_OK);
		CHECK_RESPONSE(server, "/healthz", "[-]mnnnn");
		// More clients than connections.
		int clients[8];
		for (int index = 0; index < 8; index++) {
			clients[index] = connect_client(server);
			CHECK(send(clients[index], "GET", 3, 0) == 3);
			healthz_poll_once(server, 100, NULL);
		}
		struct healthz_counters counters;
		CHECK(healthz_counters(server, &counters) == HEALTHZ_OK);
		CHECK_RESPONSE(server, "/healthz", "[-]mnnnn");
		CHECK(counters.open <= 4);
		for (int index = 0; index < 8; index++)
			close(clients[index]);
		healthz_destroy(server);
	}
	free(memory);
}

static void options_out_of_range_are_refused(void)
{
	struct healthz_options wrong[] = {
		{.connections = 65536}, {.head_bytes = 511}, {.head_bytes = 65536},
		{.checks = HEALTHZ_CHECKS_MAX + 1},
	};
	for (size_t index = 0; index < sizeof wrong / sizeof *wrong; index++) {
		struct healthz *server = (void *)1;
		CHECK(healthz_memory_bytes(&wrong[index]) == 0);
		CHECK(healthz_create(&wrong[index], &server) == HEALTHZ_INVALID);
		CHECK(server == NULL);
	}
	struct healthz_options most = {.checks = HEALTHZ_CHECKS_MAX, .connections = 3};
	struct healthz *server = create(&most);
	for (int index = 0; index < (int)HEALTHZ_CHECKS_MAX; index++) {
		char name[16];
		const struct healthz_check *check;
		snprintf(name, sizeof name, "check-%d", index);
		CHECK(healthz_add_check(server, name, 0, &check) == HEALTHZ_OK);
		healthz_pass(check);
	}
	CHECK(healthz_add_ping(server) == HEALTHZ_INVALID);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	CHECK_RESPONSE(server, "/readyz?verbose", "[+]check-255 ok\nreadyz check passed\n");
	healthz_destroy(server);
}

static void null_pointers_are_refused(void)
{
	struct healthz_counters counters;
	const struct healthz_check *check;
	CHECK(healthz_create(NULL, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_memory_bytes(NULL) > 1024 * 1024);
	CHECK(healthz_add_ping(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(NULL, "a", 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_heartbeat(NULL, "a", 1, 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_listen(NULL, "127.0.0.1:0") == HEALTHZ_INVALID);
	CHECK(healthz_listen_fd(NULL, 5) == HEALTHZ_INVALID);
	CHECK(healthz_start(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_poll_once(NULL, 0, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_stop(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_shutdown(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_counters(NULL, &counters) == HEALTHZ_INVALID);
	CHECK(healthz_fd(NULL) == -1 && healthz_timeout(NULL) == -1);
	CHECK(healthz_missing(NULL) == NULL);
	CHECK(healthz_port(NULL) == 0 && !healthz_is_finished(NULL) && !healthz_passes(NULL));
	CHECK(strlen(healthz_error(NULL)) > 0);
	CHECK(healthz_poll_once((void *)3, 0, NULL) == HEALTHZ_INVALID);
	healthz_pass(NULL);
	healthz_fail(NULL, "x");
	healthz_beat(NULL);
	healthz_destroy(NULL);
	for (int result = -1; result < 6; result++) {
		CHECK(strlen(healthz_strerror(result)) > 0);
		// Each result has its own text. Numbers that are no result share one.
		for (int other = 0; other < 5; other++)
			CHECK(result == other || strcmp(healthz_strerror(result), healthz_strerror(other)));
	}
	CHECK(strchr(healthz_version(), '.'));
}

static void errors_have_messages(void)
{
	struct healthz *server = create(NULL), *other = create(NULL);
	const struct healthz_check *check;
	size_t events;
	const char *names[] = {"", "a b", "..", "a//b", "caf\xc3\xa9", "\xff"};
	for (size_t index = 0; index < sizeof names / sizeof *names; index++)
		CHECK(healthz_add_check(server, names[index], 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(server, NULL, 0, &check) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "name is NULL");
	CHECK(healthz_add_check(server, "a", 0, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(server, "a", 16, &check) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "flags is 0x10; use a sum of");
	CHECK(healthz_add_heartbeat(server, "a", 0, 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(server, "a", 0, &check) == HEALTHZ_OK);
	CHECK(healthz_add_check(server, "a", 0, &check) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "there is already a check named \"a\"");
	CHECK(healthz_add_ping(server) == HEALTHZ_OK);
	CHECK(healthz_add_ping(server) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(server, "shutdown", 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_poll_once(server, 0, &events) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "the server is not started");
	CHECK(healthz_stop(server) == HEALTHZ_INVALID);
	CHECK(healthz_start(server) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "no address to listen on: healthz_listen() was not called, or failed");
	CHECK(healthz_listen(server, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_listen(server, "nowhere") == HEALTHZ_INVALID);
	CHECK_ERROR(server, "nowhere: expected an address such as");
	char longest[400];
	memset(longest, 'x', sizeof longest);
	longest[sizeof longest - 1] = 0;
	CHECK(healthz_listen(server, longest) == HEALTHZ_INVALID);
	// Cut to 320 bytes with the NUL.
	CHECK(strlen(healthz_error(server)) == 319 && !strncmp(healthz_error(server), longest, 319));
	CHECK(healthz_listen(server, "0.0.0.0:0") == HEALTHZ_SYSTEM);
	CHECK_ERROR(server, "can be reached from other machines");
	CHECK(healthz_listen_fd(server, -1) == HEALTHZ_SYSTEM);
	CHECK(healthz_listen_fd(server, 2) == HEALTHZ_SYSTEM);
	CHECK(healthz_listen_fd(server, 1000) == HEALTHZ_SYSTEM);
	int not_listening = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(healthz_listen_fd(server, not_listening) == HEALTHZ_SYSTEM);
	CHECK(fcntl(not_listening, F_GETFD) == -1);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	char address[64];
	snprintf(address, sizeof address, "127.0.0.1:%d", healthz_port(server));
	CHECK(healthz_listen(other, address) == HEALTHZ_SYSTEM);
	CHECK_ERROR(other, "in use");
	CHECK(healthz_start(other) == HEALTHZ_INVALID);
	CHECK_ERROR(other, "or failed");
	CHECK(healthz_start(server) == HEALTHZ_OK);
	CHECK(healthz_start(server) == HEALTHZ_INVALID);
	CHECK_ERROR(server, "already started");
	CHECK(healthz_add_ping(server) == HEALTHZ_INVALID);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_INVALID);
	CHECK(healthz_counters(server, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_poll_once(server, 0, &events) == HEALTHZ_OK && events == 0);
	healthz_destroy(server);
	healthz_destroy(other);

	struct healthz_options remote = {.allow_remote = 1, .connections = 2};
	server = create(&remote);
	CHECK(healthz_listen(server, "0.0.0.0:0") == HEALTHZ_OK);
	healthz_destroy(server);
}

static void metrics_are_answered_if_they_are_asked_for(void)
{
	for (int metrics = 0; metrics < 2; metrics++) {
		struct healthz_options options = {.metrics = metrics};
		struct healthz *server = create(&options);
		const struct healthz_check *disk;
		CHECK(healthz_add_check(server, "disk", 0, &disk) == HEALTHZ_OK);
		CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
		CHECK(healthz_start(server) == HEALTHZ_OK);
		if (metrics) {
			CHECK_RESPONSE(server, "/metrics/slis",
				       "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
			CHECK_RESPONSE(server, "/metrics",
				       "\nkubernetes_healthcheck{name=\"disk\",type=\"readyz\"} 0\n");
			CHECK_RESPONSE(server, "/metrics",
				       "\nhealthz_connections_total{result=\"accepted\"} 3\n");
		} else {
			CHECK_RESPONSE(server, "/metrics", "404 page not found\n");
		}
		healthz_destroy(server);
	}
}

static void a_given_socket_is_served(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 8) == 0);
	struct healthz *server = create(NULL);
	CHECK(healthz_listen_fd(server, fd) == HEALTHZ_OK);
	CHECK(healthz_port(server) != 0);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	CHECK_RESPONSE(server, "/healthz", "\r\n\r\nok");
	// An edge-triggered loop continues until there are no events.
	size_t events = 1;
	int client = connect_client(server);
	CHECK(send(client, "GET", 3, 0) == 3);
	for (int count = 0; count < 100 && events; count++)
		CHECK(healthz_poll_once(server, 0, &events) == HEALTHZ_OK);
	CHECK(events == 0);
	// An unfinished request head has a deadline.
	int timeout = healthz_timeout(server);
	CHECK(timeout > 0 && timeout <= 60000);
	close(client);
	healthz_destroy(server);
	CHECK(fcntl(fd, F_GETFD) == -1);
}

// Sends `part` of a request and lets the server handle it. Returns the server's timeout after that.
static int timeout_after(struct healthz *server, int client, const char *part)
{
	CHECK(send(client, part, strlen(part), 0) == (ssize_t)strlen(part));
	size_t events = 1;
	for (int count = 0; count < 100 && events; count++)
		CHECK(healthz_poll_once(server, 0, &events) == HEALTHZ_OK);
	return healthz_timeout(server);
}

static void time_limits_are_those_of_the_options(void)
{
	struct healthz_options options = {.head_ms = 200000, .idle_ms = 300000, .drain_ms = 100000};
	struct healthz *server = create(&options);
	CHECK(healthz_add_ping(server) == HEALTHZ_OK);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	CHECK(healthz_timeout(server) == -1);
	int client = connect_client(server);
	int timeout = timeout_after(server, client, "GET /healthz HTTP/1.1\r\nHost: a\r\n");
	CHECK(timeout > 100000 && timeout <= 200000);
	timeout = timeout_after(server, client, "\r\n");
	CHECK(timeout > 200000 && timeout <= 300000);
	CHECK(timeout_after(server, client, "GET") <= 200000);
	CHECK(healthz_stop(server) == HEALTHZ_OK);
	timeout = timeout_after(server, client, " ");
	CHECK(timeout > 2000 && timeout <= 100000);
	close(client);
	healthz_destroy(server);
}

static const struct healthz_check *shared;

static void *update(void *reason)
{
	for (int count = 0; count < 2000; count++) {
		healthz_fail(shared, reason);
		healthz_beat(shared);
	}
	return NULL;
}

static void on_signal(int signal)
{
	(void)signal;
	healthz_fail(shared, "from the handler");
}

static void checks_are_set_from_threads_and_signal_handlers(void)
{
	struct healthz *server = create(NULL);
	CHECK(healthz_add_heartbeat(server, "shared", 3600000, 0, &shared) == HEALTHZ_OK);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &action, NULL);
	pthread_t threads[2];
	char *reasons[] = {"from thread 1", "from thread 2"};
	for (int index = 0; index < 2; index++)
		pthread_create(&threads[index], NULL, update, reasons[index]);
	for (int count = 0; count < 20; count++) {
		raise(SIGUSR1);
		const char *response = get(server, "/healthz/shared");
		CHECK(strstr(response, "\r\n\r\nok") || strstr(response, "error: from thread 1\n") ||
		      strstr(response, "error: from thread 2\n") || strstr(response, "error: failing\n") ||
		      strstr(response, "error: from the handler\n"));
	}
	for (int index = 0; index < 2; index++)
		pthread_join(threads[index], NULL);
	healthz_fail(shared, "after both threads");
	CHECK_RESPONSE(server, "/healthz/shared", "error: after both threads\n");
	healthz_destroy(server);
}

// A C program usually has the default action for SIGPIPE, which ends it.
static void a_closed_connection_raises_no_sigpipe(void)
{
	void (*before)(int) = signal(SIGPIPE, SIG_DFL);
	char directory[] = "/tmp/healthz-test-XXXXXX";
	CHECK(mkdtemp(directory) != NULL);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", directory);
	char listen[128];
	snprintf(listen, sizeof listen, "unix:%s", address.sun_path);
	struct healthz *server = create(NULL);
	CHECK(healthz_add_ping(server) == HEALTHZ_OK);
	CHECK(healthz_listen(server, listen) == HEALTHZ_OK);
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(server) == HEALTHZ_OK);
	for (int count = 0; count < 20; count++) {
		static const char request[] = "GET /healthz HTTP/1.0\r\n\r\n";
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
		CHECK(send(fd, request, sizeof request - 1, 0) == sizeof request - 1);
		// The client closes before the server responds, so that send(2) fails with EPIPE.
		close(fd);
		CHECK(healthz_poll_once(server, 1000, NULL) == HEALTHZ_OK);
	}
	struct healthz_counters counters;
	CHECK(healthz_counters(server, &counters) == HEALTHZ_OK);
	CHECK(counters.failed == 20);
	CHECK_RESPONSE(server, "/healthz", "\r\n\r\nok");
	healthz_destroy(server);
	CHECK(rmdir(directory) == 0);
	signal(SIGPIPE, before);
}

// Like tests/support/untried.rs: appends the reason to a file that .ci/run prints.
static void untried(const char *reason)
{
	const char *path = getenv("HEALTHZ_UNTRIED");
	FILE *file = path ? fopen(path, "a") : NULL;
	printf("skipped: %s\n", reason);
	if (file) {
		fprintf(file, "capi/test.c: %s\n", reason);
		fclose(file);
	}
}

static int can_bind_ipv6_loopback(void)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	int result = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof address);
	if (fd >= 0)
		close(fd);
	return result == 0;
}

static void a_missing_address_of_localhost_is_named(void)
{
	struct healthz *server = create(NULL);
	CHECK(healthz_missing(server) == NULL);
	CHECK(healthz_listen(server, "localhost:0") == HEALTHZ_OK);
	const char *missing = healthz_missing(server);
	if (can_bind_ipv6_loopback()) {
		CHECK(missing == NULL);
	} else {
		char address[64];
		snprintf(address, sizeof address, "[::1]:%d: ", healthz_port(server));
		CHECK(missing && strncmp(missing, address, strlen(address)) == 0);
		CHECK(missing && strlen(missing) > strlen(address));
	}
	CHECK(healthz_listen(server, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_missing(server) == NULL);
	healthz_destroy(server);
}

// Moves this process into a network namespace without IPv6, so it must be called last.
static int leave_ipv6(void)
{
	static const char *const names[] = {"all", "lo"};
	if (unshare(CLONE_NEWNET))
		return 0;
	for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", names[index]);
		FILE *file = fopen(path, "w");
		// Without the file there is no IPv6 to turn off.
		if (file) {
			fputs("1", file);
			fclose(file);
		}
	}
	return !can_bind_ipv6_loopback();
}

int main(void)
{
	responses_report_the_checks();
	a_heartbeat_before_its_first_beat_passes_until_its_limit_or_without_limit();
	a_server_works_in_memory_of_the_caller();
	options_out_of_range_are_refused();
	null_pointers_are_refused();
	errors_have_messages();
	metrics_are_answered_if_they_are_asked_for();
	a_given_socket_is_served();
	time_limits_are_those_of_the_options();
	checks_are_set_from_threads_and_signal_handlers();
	a_closed_connection_raises_no_sigpipe();
	a_missing_address_of_localhost_is_named();
	if (leave_ipv6())
		a_missing_address_of_localhost_is_named();
	else
		untried("no network namespace without IPv6; both addresses of localhost existed");
	printf(failures ? "%d failures\n" : "all passed\n", failures);
	return failures ? 1 : 0;
}
