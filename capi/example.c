/*
 * An echo service with a health server in its own poll(2) loop. Lines marked healthz are the ones that
 * the health server needs.
 *
 *     cc example.c $(pkg-config --cflags --libs healthz) -o example
 *     ./example 127.0.0.1:10248
 *     curl 'http://127.0.0.1:10248/healthz?verbose'
 *
 * Without an address it uses a free port and prints it. SIGUSR1 makes the check "manual" fail and
 * SIGUSR2 makes it pass again, both directly from the signal handler. SIGTERM ends the program after the
 * requests in progress.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <healthz.h>

/* The check "work" fails if the loop has not beaten for this long. */
enum { LIMIT_MS = 30000 }; /* healthz */

static const struct healthz_check *work; /* healthz */
static const struct healthz_check *manual; /* healthz */
static volatile sig_atomic_t is_terminating;

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		healthz_fail(manual, "SIGUSR1 received"); /* healthz */
	else if (signal == SIGUSR2)
		healthz_pass(manual); /* healthz */
	else
		is_terminating = 1;
}

static int failed(const char *what, const char *why)
{
	fprintf(stderr, "example: %s: %s\n", what, why);
	return 1;
}

/* The listener of the echo service, on a free port. */
static int listen_for_echo(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16))
		return -1;
	socklen_t size = sizeof address;
	getsockname(fd, (struct sockaddr *)&address, &size);
	printf("echo on port %d\n", ntohs(address.sin_port));
	return fd;
}

/* Sends back what the client sent, and closes the connection when it ends. */
static void echo(int *client)
{
	char line[256];
	ssize_t count = read(*client, line, sizeof line);
	if (count <= 0 || send(*client, line, (size_t)count, MSG_NOSIGNAL) != count) {
		close(*client);
		*client = -1;
	}
}

/* Creates and starts the health server. NULL after an error, which it prints. */
static struct healthz *start_health_server(const char *address) /* healthz */
{
	struct healthz *server; /* healthz */
	if (healthz_create(NULL, &server)) { /* healthz */
		failed("cannot create the health server", "not enough memory"); /* healthz */
		return NULL; /* healthz */
	}
	if (healthz_add_ping(server) || /* healthz */
	    healthz_add_heartbeat(server, "work", LIMIT_MS, 0, &work) || /* healthz */
	    healthz_add_check(server, "manual", 0, &manual) || /* healthz */
	    healthz_listen(server, address) || /* healthz */
	    healthz_start(server)) { /* healthz */
		failed("cannot start the health server", healthz_error(server)); /* healthz */
		healthz_destroy(server); /* healthz */
		return NULL; /* healthz */
	}
	healthz_pass(manual); /* healthz */
	printf("health on port %d\n", healthz_port(server)); /* healthz */
	return server; /* healthz */
}

/* How long poll(2) may wait: the loop must also wake up to beat. */
static int wait_ms(struct healthz *server) /* healthz */
{
	int timeout = healthz_timeout(server); /* healthz */
	return timeout < 0 || timeout > LIMIT_MS / 3 ? LIMIT_MS / 3 : timeout; /* healthz */
}

int main(int argc, char **argv)
{
	struct healthz *server = start_health_server(argc > 1 ? argv[1] : "127.0.0.1:0"); /* healthz */
	if (!server) /* healthz */
		return 1; /* healthz */

	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(SIGTERM, &action, NULL);

	int listener = listen_for_echo(), client = -1;
	if (listener < 0)
		return failed("cannot listen for echo clients", strerror(errno));
	fflush(stdout);

	int is_stopping = 0;
	while (!healthz_is_finished(server)) { /* healthz */
		struct pollfd fds[] = {
			{.fd = healthz_fd(server), .events = POLLIN}, /* healthz */
			{.fd = client < 0 ? listener : -1, .events = POLLIN},
			{.fd = client, .events = POLLIN},
		};
		if (poll(fds, 3, wait_ms(server)) < 0 && errno != EINTR)
			return failed("poll", strerror(errno));
		if (fds[1].revents)
			client = accept(listener, NULL, NULL);
		if (fds[2].revents)
			echo(&client);
		/* Beat first, so that the answers below report this turn of the loop. */
		healthz_beat(work); /* healthz */
		if (healthz_poll_once(server, 0, NULL)) /* healthz */
			return failed("health server", healthz_error(server)); /* healthz */
		if (is_terminating && !is_stopping) {
			is_stopping = 1;
			healthz_shutdown(server); /* healthz */
			healthz_stop(server); /* healthz */
		}
	}
	struct healthz_counters counters;
	healthz_counters(server, &counters);
	printf("%llu requests answered\n", (unsigned long long)counters.answered);
	healthz_destroy(server); /* healthz */
	if (client >= 0)
		close(client);
	close(listener);
	return 0;
}
