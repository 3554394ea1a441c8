// A small service with the door in its own poll(2) loop: it echoes lines on one socket, and says over
// another how it is.
//
//     cc example.c $(pkg-config --cflags --libs healthz) -o example
//     ./example 127.0.0.1:10248
//
// Without an address it takes a free port. SIGUSR1 makes it ill and SIGUSR2 well again, both straight
// from the handler; SIGTERM drains and ends it.

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <healthz.h>

static const struct healthz_check *work; // door
static volatile sig_atomic_t is_ending;

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		healthz_fail(work, "asked to be ill"); // door
	else if (signal == SIGUSR2)
		healthz_beat(work); // door
	else
		is_ending = 1;
}

static int failed(const char *what, const char *why)
{
	fprintf(stderr, "example: %s: %s\n", what, why);
	return 1;
}

// The service itself: one client at a time.
static int listen_for_work(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16))
		return -1;
	socklen_t size = sizeof address;
	getsockname(fd, (struct sockaddr *)&address, &size);
	printf("work on port %d\n", ntohs(address.sin_port));
	return fd;
}

static void echo(int *client)
{
	char line[256];
	ssize_t count = read(*client, line, sizeof line);
	if (count <= 0 || send(*client, line, (size_t)count, MSG_NOSIGNAL) != count) {
		close(*client);
		*client = -1;
	}
}

int main(int argc, char **argv)
{
	struct healthz *door; // door
	if (healthz_create(NULL, &door)) // door
		return failed("no door", "out of memory"); // door
	if (healthz_add_ping(door) || // door
	    healthz_add_heartbeat(door, "work", 30000, 0, &work) || // door
	    healthz_listen(door, argc > 1 ? argv[1] : "127.0.0.1:0") || // door
	    healthz_start(door)) { // door
		failed("no door", healthz_error(door)); // door
		healthz_destroy(door); // door
		return 1; // door
	} // door
	printf("health on port %d\n", healthz_port(door)); // door

	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(SIGTERM, &action, NULL);

	int listener = listen_for_work(), client = -1;
	if (listener < 0)
		return failed("no work", strerror(errno));
	fflush(stdout);

	int is_stopping = 0;
	while (!healthz_is_finished(door)) { // door
		struct pollfd fds[] = {
			{.fd = healthz_fd(door), .events = POLLIN}, // door
			{.fd = client < 0 ? listener : -1, .events = POLLIN},
			{.fd = client, .events = POLLIN},
		};
		if (poll(fds, 3, healthz_timeout(door)) < 0 && errno != EINTR)
			return failed("poll", strerror(errno));
		if (healthz_turn(door, 0, NULL)) // door
			return failed("door", healthz_error(door)); // door
		if (fds[1].revents)
			client = accept(listener, NULL, NULL);
		if (fds[2].revents)
			echo(&client);
		if (is_ending && !is_stopping) {
			is_stopping = 1;
			healthz_shutdown(door); // door
			healthz_stop(door); // door
		}
	}
	struct healthz_counters counters;
	healthz_counters(door, &counters);
	printf("%llu requests answered\n", (unsigned long long)counters.answered);
	healthz_destroy(door); // door
	if (client >= 0)
		close(client);
	close(listener);
	return 0;
}
