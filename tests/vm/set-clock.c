/* Sets the state of the kernel's clock, as a time daemon does. `set-clock ERROR`: the clock is synchronised and at most
   ERROR microseconds wrong. `set-clock` without an argument: it is not synchronised. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/timex.h>

int main(int argc, char **argv) {
    struct timex clock = {
        .modes = ADJ_STATUS | ADJ_MAXERROR,
        .status = argc > 1 ? STA_PLL : STA_UNSYNC,
        .maxerror = argc > 1 ? atol(argv[1]) : 16000000,
    };
    if (adjtimex(&clock) < 0) {
        perror("adjtimex");
        return 1;
    }
    return 0;
}
