/* Stops one thread of another process, until this program ends: `stop-thread TID`. SIGSTOP would stop the whole
   process. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv) {
    pid_t thread = argc > 1 ? atoi(argv[1]) : 0;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL)) {
        perror("ptrace");
        return 1;
    }
    pause();
    return 0;
}
