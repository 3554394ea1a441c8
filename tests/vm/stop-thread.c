/* `stop-thread TID` stops a thread of another process when it calls accept4, until the thread is killed. SIGSTOP would
   stop the whole process. A thread that waits for events is not stopped there, because healthz considers it idle. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/ptrace.h>

int main(int argc, char **argv) {
    pid_t thread = argc > 1 ? atoi(argv[1]) : 0;
    struct ptrace_syscall_info info;
    if (ptrace(PTRACE_SEIZE, thread, NULL, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL)) {
        perror("ptrace");
        return 1;
    }
    do {
        if (waitpid(thread, NULL, __WALL) < 0 || ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) < 0) {
            perror("ptrace");
            return 1;
        }
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_accept4) {
            /* The thread stays stopped until it is killed. Its process ends only after this wait for the thread. */
            return waitpid(thread, NULL, __WALL) != thread;
        }
    } while (!ptrace(PTRACE_SYSCALL, thread, NULL, NULL));
    perror("ptrace");
    return 1;
}
