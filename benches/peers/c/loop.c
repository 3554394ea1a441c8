/* Three servers that healthz is compared with in the benches `cost` and `latency`: an epoll loop that sends fixed bytes.
 *
 * It parses no HTTP, and has no checks, deadlines, limits or sandbox. It expects that a request arrives whole, as
 * the bench sends it. So it is no server to use; it shows what a probe costs at least.
 *
 * usage: loop plain|best|safe PORT
 *
 * plain  registers each connection with epoll, and answers it when epoll reports it: 8 system calls for a probe
 *        with its own connection.
 * best   uses every shortcut: the kernel reports a connection only when its request is there (TCP_DEFER_ACCEPT), so
 *        it is read at once and is not registered; one accept for each report; the answer leaves in one segment
 *        with the end of the connection (MSG_MORE): 5 system calls. If more of the client's input has arrived but was
 *        not read, close(2) resets the connection, and the answer is lost. And a client that sends nothing stays.
 * safe   is best, but shutdown(2) sends the answer before close(2). epoll_wait(2) has a timeout, as deadlines need, but
 *        this loop does nothing then: 6 system calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* As long as the answers of healthz, so that the kernel copies as many bytes. */
#define HEAD                                                                                             \
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" \
    "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n"
static const char kept_answer[] = HEAD "\r\nok";
static const char last_answer[] = HEAD "Connection: close\r\n\r\nok";

static int is_best;
static int is_safe;
static int events_fd;
static int listener;

/* Reads once, and answers what was read. Returns 1 if the connection is to be closed. */
static int serve(int connection) {
    /* Large enough for all requests that the bench sends before it reads an answer, so that none is cut. */
    char requests[65536];
    ssize_t size = recv(connection, requests, sizeof requests, 0);
    if (size <= 0)
        return size == 0 || errno != EAGAIN;
    const char *at = requests, *end;
    while ((end = memmem(at, requests + size - at, "\r\n\r\n", 4))) {
        if (memmem(at, end - at, "close", 5)) {
            int flags = MSG_NOSIGNAL | (is_best ? MSG_MORE : 0);
            send(connection, last_answer, sizeof last_answer - 1, flags);
            return 1;
        }
        if (send(connection, kept_answer, sizeof kept_answer - 1, MSG_NOSIGNAL) < 0)
            return 1;
        at = end + 4;
    }
    return 0;
}

static void end(int connection) {
    if (is_safe)
        shutdown(connection, SHUT_WR);
    close(connection);
}

static void accept_connections(void) {
    int connection;
    while ((connection = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (is_best && serve(connection)) {
            end(connection);
        } else {
            struct epoll_event event = {.events = EPOLLIN, .data.fd = connection};
            epoll_ctl(events_fd, EPOLL_CTL_ADD, connection, &event);
        }
        if (is_best)
            return;
    }
}

int main(int count, char **arguments) {
    int is_plain = count == 3 && !strcmp(arguments[1], "plain");
    is_safe = count == 3 && !strcmp(arguments[1], "safe");
    is_best = is_safe || (count == 3 && !strcmp(arguments[1], "best"));
    if (!is_plain && !is_best) {
        fprintf(stderr, "usage: loop plain|best|safe PORT\n");
        return 2;
    }
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int seconds = 5;
    if (is_best)
        setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("loop: cannot listen");
        return 1;
    }
    events_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(events_fd, EPOLL_CTL_ADD, listener, &event);
    static struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(events_fd, events, 256, is_safe ? 5000 : -1);
        for (int index = 0; index < ready; index++) {
            int fd = events[index].data.fd;
            if (fd == listener)
                accept_connections();
            else if (serve(fd))
                end(fd);
        }
    }
}
