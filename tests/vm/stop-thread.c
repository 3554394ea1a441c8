/* Stops one thread of another process until it is killed: `stop-thread TID`. SIGSTOP would stop the whole process. */
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
    /* It stays stopped until it is killed. Its process ends only when the dead thread was waited for. */
    return waitpid(thread, NULL, __WALL) != thread;
}
