/* `stop-thread TID` stops a thread of another process until the thread is killed. SIGSTOP would stop all threads. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
    pid_t thread = argc > 1 ? atoi(argv[1]) : 0;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL)
        || waitpid(thread, NULL, __WALL) != thread) {
        perror("ptrace");
        return 1;
    }
    /* The thread stays stopped until it is killed. Its process ends only after this wait for the thread. */
    return waitpid(thread, NULL, __WALL) != thread;
}
