// Every function of healthz.h, used as it should be and as it should not be. Prints what is wrong and
// ends with 1. capi/check runs it below valgrind.

#include <pthread.h>
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
			printf("%s:%d: not so: %s\n", __func__, __LINE__, #condition); \
			failures++; \
		} \
	} while (0)

#define SAYS(door, part) \
	do { \
		if (!strstr(healthz_error(door), part)) { \
			printf("%s:%d: no \"%s\" in \"%s\"\n", __func__, __LINE__, part, \
			       healthz_error(door)); \
			failures++; \
		} \
	} while (0)

static struct healthz *made(const struct healthz_options *options)
{
	struct healthz *door = NULL;
	CHECK(healthz_create(options, &door) == HEALTHZ_OK);
	if (!door)
		exit(1);
	return door;
}

static int connected(struct healthz *door)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(healthz_port(door))};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
	return fd;
}

// The whole answer to GET `path`, which the caller's one thread also serves.
static const char *ask(struct healthz *door, const char *path)
{
	static char answer[8192];
	char request[256];
	int fd = connected(door);
	int size = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\n\r\n", path);
	CHECK(send(fd, request, (size_t)size, 0) == size);
	size_t used = 0;
	for (int turns = 0; turns < 1000; turns++) {
		CHECK(healthz_turn(door, 10, NULL) == HEALTHZ_OK);
		ssize_t count =
			recv(fd, answer + used, sizeof answer - 1 - used, MSG_DONTWAIT);
		if (count == 0)
			break;
		if (count > 0)
			used += (size_t)count;
	}
	answer[used] = 0;
	close(fd);
	return answer;
}

#define ANSWERS(door, path, part) \
	do { \
		const char *answer = ask(door, path); \
		if (!strstr(answer, part)) { \
			printf("%s:%d: %s gives no \"%s\", but: %s\n", __func__, __LINE__, path, part, \
			       answer); \
			failures++; \
		} \
	} while (0)

static void a_door_tells_what_its_checks_say(void)
{
	struct healthz *door = made(NULL);
	const struct healthz_check *disk, *loop, *ready;
	CHECK(healthz_add_ping(door) == HEALTHZ_OK);
	CHECK(healthz_add_check(door, "disk", 0, &disk) == HEALTHZ_OK);
	CHECK(healthz_add_heartbeat(door, "loop", 3600000, HEALTHZ_ON_HEALTHZ, &loop) == HEALTHZ_OK);
	CHECK(healthz_add_check(door, "ready", HEALTHZ_ON_READYZ, &ready) == HEALTHZ_OK);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_fd(door) == -1);
	CHECK(healthz_start(door) == HEALTHZ_OK);
	CHECK(healthz_fd(door) > 2);
	CHECK(fcntl(healthz_fd(door), F_GETFD) == FD_CLOEXEC);
	CHECK(!healthz_passes(disk) && healthz_passes(loop));

	ANSWERS(door, "/healthz/disk", "500 Internal Server Error");
	ANSWERS(door, "/healthz/disk", "internal server error: not reported yet\n");
	healthz_pass(disk);
	ANSWERS(door, "/healthz", "\r\n\r\nok");
	ANSWERS(door, "/readyz", "[-]ready failed: reason withheld\n");
	ANSWERS(door, "/livez?verbose", "[+]ping ok\n[+]disk ok\nlivez check passed\n");
	ANSWERS(door, "/livez/loop", "404");
	healthz_fail(disk, "/var: 99 % full");
	CHECK(!healthz_passes(disk));
	ANSWERS(door, "/healthz/disk", "internal server error: /var: 99 % full\n");
	healthz_fail(disk, "caf\xc3\xa9 \xff\xfe.");
	ANSWERS(door, "/healthz/disk", "internal server error: caf\xc3\xa9 ??.\n");
	healthz_fail(disk, NULL);
	ANSWERS(door, "/healthz/disk", "internal server error: failing\n");
	char reason[400];
	memset(reason, 'x', sizeof reason);
	memcpy(reason + 254, "\xc3\xa9", 2);
	reason[sizeof reason - 1] = 0;
	healthz_fail(disk, reason);
	// Cut at 255 bytes, and not in the middle of a character.
	char expected[400];
	snprintf(expected, sizeof expected, "internal server error: %.254s\n", reason);
	ANSWERS(door, "/healthz/disk", expected);
	healthz_beat(disk);
	healthz_pass(ready);
	ANSWERS(door, "/readyz?verbose", "[+]ready ok\nreadyz check passed\n");

	CHECK(healthz_shutdown(door) == HEALTHZ_OK);
	ANSWERS(door, "/readyz/shutdown", "process is shutting down");
	ANSWERS(door, "/healthz", "\r\n\r\nok");
	struct healthz_counters counters;
	CHECK(healthz_counters(door, &counters) == HEALTHZ_OK);
	CHECK(counters.answered == 13 && counters.accepted == 13 && counters.refused == 0);
	int idle = connected(door);
	CHECK(healthz_turn(door, 1000, NULL) == HEALTHZ_OK);
	CHECK(!healthz_is_finished(door));
	CHECK(healthz_stop(door) == HEALTHZ_OK);
	for (int turns = 0; turns < 1000 && !healthz_is_finished(door); turns++)
		healthz_turn(door, 10, NULL);
	CHECK(healthz_is_finished(door));
	close(idle);
	healthz_destroy(door);
}

static void memory_of_the_callers_is_enough(void)
{
	struct healthz_options options = {.connections = 4, .head_bytes = 512, .checks = 2};
	size_t bytes = healthz_memory_bytes(&options);
	CHECK(bytes > 4 * 512 && bytes < 128 * 1024);
	char *memory = aligned_alloc(HEALTHZ_MEMORY_ALIGN, bytes);
	memset(memory, 0xa5, bytes);
	struct healthz *door = (void *)1;
	CHECK(healthz_create_in(&options, memory, bytes - 1, &door) == HEALTHZ_NO_MEMORY);
	CHECK(door == NULL);
	CHECK(healthz_create_in(&options, memory + 1, bytes, &door) == HEALTHZ_NO_MEMORY);
	CHECK(healthz_create_in(&options, NULL, bytes, &door) == HEALTHZ_INVALID);
	// Twice, the second time over what the first has left.
	for (int turn = 0; turn < 2; turn++) {
		const struct healthz_check *check;
		char name[128];
		memset(name, 'n', 127);
		name[127] = 0;
		CHECK(healthz_create_in(&options, memory, bytes, &door) == HEALTHZ_OK);
		CHECK(healthz_add_check(door, name, 0, &check) == HEALTHZ_OK);
		CHECK((char *)check >= memory && (char *)check < memory + bytes);
		name[0] = 'm';
		CHECK(healthz_add_check(door, name, 0, &check) == HEALTHZ_OK);
		CHECK(healthz_add_check(door, "more", 0, &check) == HEALTHZ_INVALID);
		SAYS(door, "there are 2 checks already");
		CHECK(healthz_listen(door, "localhost:0") == HEALTHZ_OK);
		CHECK(healthz_start(door) == HEALTHZ_OK);
		ANSWERS(door, "/healthz", "[-]mnnnn");
		// More than there is room for.
		int crowd[8];
		for (int index = 0; index < 8; index++) {
			crowd[index] = connected(door);
			CHECK(send(crowd[index], "GET", 3, 0) == 3);
			healthz_turn(door, 100, NULL);
		}
		struct healthz_counters counters;
		CHECK(healthz_counters(door, &counters) == HEALTHZ_OK);
		ANSWERS(door, "/healthz", "[-]mnnnn");
		CHECK(counters.open <= 4);
		for (int index = 0; index < 8; index++)
			close(crowd[index]);
		healthz_destroy(door);
	}
	free(memory);
}

static void options_out_of_bounds_are_refused(void)
{
	struct healthz_options wrong[] = {
		{.connections = 65536}, {.head_bytes = 511}, {.head_bytes = 65536},
		{.checks = HEALTHZ_CHECKS_MAX + 1},
	};
	for (size_t index = 0; index < sizeof wrong / sizeof *wrong; index++) {
		struct healthz *door = (void *)1;
		CHECK(healthz_memory_bytes(&wrong[index]) == 0);
		CHECK(healthz_create(&wrong[index], &door) == HEALTHZ_INVALID);
		CHECK(door == NULL);
	}
	struct healthz_options most = {.checks = HEALTHZ_CHECKS_MAX, .connections = 3};
	struct healthz *door = made(&most);
	for (int index = 0; index < (int)HEALTHZ_CHECKS_MAX; index++) {
		char name[16];
		const struct healthz_check *check;
		snprintf(name, sizeof name, "check-%d", index);
		CHECK(healthz_add_check(door, name, 0, &check) == HEALTHZ_OK);
		healthz_pass(check);
	}
	CHECK(healthz_add_ping(door) == HEALTHZ_INVALID);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(door) == HEALTHZ_OK);
	ANSWERS(door, "/readyz?verbose", "[+]check-255 ok\nreadyz check passed\n");
	healthz_destroy(door);
}

static void null_is_an_answer(void)
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
	CHECK(healthz_turn(NULL, 0, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_stop(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_shutdown(NULL) == HEALTHZ_INVALID);
	CHECK(healthz_counters(NULL, &counters) == HEALTHZ_INVALID);
	CHECK(healthz_fd(NULL) == -1 && healthz_timeout(NULL) == -1);
	CHECK(healthz_port(NULL) == 0 && !healthz_is_finished(NULL) && !healthz_passes(NULL));
	CHECK(strlen(healthz_error(NULL)) > 0);
	CHECK(healthz_turn((void *)3, 0, NULL) == HEALTHZ_INVALID);
	healthz_pass(NULL);
	healthz_fail(NULL, "x");
	healthz_beat(NULL);
	healthz_destroy(NULL);
	for (int result = -1; result < 6; result++)
		CHECK(strlen(healthz_strerror(result)) > 0);
	CHECK(strchr(healthz_version(), '.'));
}

static void mistakes_are_told_in_words(void)
{
	struct healthz *door = made(NULL), *other = made(NULL);
	const struct healthz_check *check;
	size_t events;
	const char *names[] = {"", "a b", "..", "a//b", "caf\xc3\xa9", "\xff"};
	for (size_t index = 0; index < sizeof names / sizeof *names; index++)
		CHECK(healthz_add_check(door, names[index], 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(door, NULL, 0, &check) == HEALTHZ_INVALID);
	SAYS(door, "name is NULL");
	CHECK(healthz_add_check(door, "a", 0, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(door, "a", 8, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_heartbeat(door, "a", 0, 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(door, "a", 0, &check) == HEALTHZ_OK);
	CHECK(healthz_add_check(door, "a", 0, &check) == HEALTHZ_INVALID);
	SAYS(door, "there is a check \"a\" already");
	CHECK(healthz_add_ping(door) == HEALTHZ_OK);
	CHECK(healthz_add_ping(door) == HEALTHZ_INVALID);
	CHECK(healthz_add_check(door, "shutdown", 0, &check) == HEALTHZ_INVALID);
	CHECK(healthz_turn(door, 0, &events) == HEALTHZ_INVALID);
	SAYS(door, "has not been started");
	CHECK(healthz_stop(door) == HEALTHZ_INVALID);
	CHECK(healthz_start(door) == HEALTHZ_INVALID);
	SAYS(door, "healthz_listen()");
	CHECK(healthz_listen(door, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_listen(door, "nowhere") == HEALTHZ_INVALID);
	SAYS(door, "nowhere: expected an address such as");
	CHECK(healthz_listen(door, "0.0.0.0:0") == HEALTHZ_SYSTEM);
	SAYS(door, "can be reached from other machines");
	CHECK(healthz_listen_fd(door, -1) == HEALTHZ_SYSTEM);
	CHECK(healthz_listen_fd(door, 2) == HEALTHZ_SYSTEM);
	CHECK(healthz_listen_fd(door, 1000) == HEALTHZ_SYSTEM);
	int silent = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(healthz_listen_fd(door, silent) == HEALTHZ_SYSTEM);
	CHECK(fcntl(silent, F_GETFD) == -1);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_OK);
	char address[64];
	snprintf(address, sizeof address, "127.0.0.1:%d", healthz_port(door));
	CHECK(healthz_listen(other, address) == HEALTHZ_SYSTEM);
	SAYS(other, "in use");
	CHECK(healthz_start(door) == HEALTHZ_OK);
	CHECK(healthz_start(door) == HEALTHZ_INVALID);
	SAYS(door, "started already");
	CHECK(healthz_add_ping(door) == HEALTHZ_INVALID);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_INVALID);
	CHECK(healthz_counters(door, NULL) == HEALTHZ_INVALID);
	CHECK(healthz_turn(door, 0, &events) == HEALTHZ_OK && events == 0);
	healthz_destroy(door);
	healthz_destroy(other);

	struct healthz_options remote = {.allow_remote = 1, .connections = 2};
	door = made(&remote);
	CHECK(healthz_listen(door, "0.0.0.0:0") == HEALTHZ_OK);
	healthz_destroy(door);
}

static void a_socket_of_somebody_elses_is_served(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 8) == 0);
	struct healthz *door = made(NULL);
	CHECK(healthz_listen_fd(door, fd) == HEALTHZ_OK);
	CHECK(healthz_port(door) != 0);
	CHECK(healthz_start(door) == HEALTHZ_OK);
	ANSWERS(door, "/healthz", "\r\n\r\nok");
	// An edge-triggered loop goes on until there was nothing.
	size_t events = 1;
	int client = connected(door);
	CHECK(send(client, "GET", 3, 0) == 3);
	for (int turns = 0; turns < 100 && events; turns++)
		CHECK(healthz_turn(door, 0, &events) == HEALTHZ_OK);
	CHECK(events == 0);
	// Half a head has a deadline.
	int timeout = healthz_timeout(door);
	CHECK(timeout > 0 && timeout <= 60000);
	close(client);
	healthz_destroy(door);
	CHECK(fcntl(fd, F_GETFD) == -1);
}

static const struct healthz_check *shared;

static void *update(void *reason)
{
	for (int turn = 0; turn < 2000; turn++) {
		healthz_fail(shared, reason);
		healthz_beat(shared);
	}
	return NULL;
}

static void on_alarm(int signal)
{
	(void)signal;
	healthz_fail(shared, "the handler's");
}

static void checks_are_told_things_from_threads_and_handlers(void)
{
	struct healthz *door = made(NULL);
	CHECK(healthz_add_heartbeat(door, "shared", 1000, 0, &shared) == HEALTHZ_OK);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(door) == HEALTHZ_OK);
	struct sigaction action = {.sa_handler = on_alarm};
	sigaction(SIGUSR1, &action, NULL);
	pthread_t threads[2];
	char *reasons[] = {"one's", "the other's"};
	for (int index = 0; index < 2; index++)
		pthread_create(&threads[index], NULL, update, reasons[index]);
	for (int turn = 0; turn < 20; turn++) {
		raise(SIGUSR1);
		const char *answer = ask(door, "/healthz/shared");
		CHECK(strstr(answer, "\r\n\r\nok") || strstr(answer, "error: one's\n") ||
		      strstr(answer, "error: the other's\n") || strstr(answer, "error: failing\n") ||
		      strstr(answer, "error: the handler's\n"));
	}
	for (int index = 0; index < 2; index++)
		pthread_join(threads[index], NULL);
	healthz_fail(shared, "at last");
	ANSWERS(door, "/healthz/shared", "error: at last\n");
	healthz_destroy(door);
}

// A host that is no Rust program has SIGPIPE as the system gives it, and would be ended by it.
static void a_peer_that_has_left_is_no_signal(void)
{
	void (*before)(int) = signal(SIGPIPE, SIG_DFL);
	char directory[] = "/tmp/healthz-test-XXXXXX";
	CHECK(mkdtemp(directory) != NULL);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", directory);
	char listen[128];
	snprintf(listen, sizeof listen, "unix:%s", address.sun_path);
	struct healthz *door = made(NULL);
	CHECK(healthz_add_ping(door) == HEALTHZ_OK);
	CHECK(healthz_listen(door, listen) == HEALTHZ_OK);
	CHECK(healthz_listen(door, "127.0.0.1:0") == HEALTHZ_OK);
	CHECK(healthz_start(door) == HEALTHZ_OK);
	for (int turn = 0; turn < 20; turn++) {
		static const char request[] = "GET /healthz HTTP/1.0\r\n\r\n";
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
		CHECK(send(fd, request, sizeof request - 1, 0) == sizeof request - 1);
		// It has asked, and is not there any more for the answer: send(2) gives EPIPE.
		close(fd);
		CHECK(healthz_turn(door, 1000, NULL) == HEALTHZ_OK);
	}
	struct healthz_counters counters;
	CHECK(healthz_counters(door, &counters) == HEALTHZ_OK);
	CHECK(counters.failed == 20);
	ANSWERS(door, "/healthz", "\r\n\r\nok");
	healthz_destroy(door);
	CHECK(rmdir(directory) == 0);
	signal(SIGPIPE, before);
}

int main(void)
{
	a_door_tells_what_its_checks_say();
	memory_of_the_callers_is_enough();
	options_out_of_bounds_are_refused();
	null_is_an_answer();
	mistakes_are_told_in_words();
	a_socket_of_somebody_elses_is_served();
	checks_are_told_things_from_threads_and_handlers();
	a_peer_that_has_left_is_no_signal();
	printf(failures ? "%d failures\n" : "all was well\n", failures);
	return failures ? 1 : 0;
}
