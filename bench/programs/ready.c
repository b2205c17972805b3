/* The program that the start measurements start: about the least that a server can be.
 *
 * Listens on LISTEN_FDS (socket activation) or on 127.0.0.1:PORT (0: any), says READY=1 to NOTIFY_SOCKET if there is
 * one and the first argument is not `quiet`, and answers each connection with one line:
 * `R` and the times, in nanoseconds of CLOCK_MONOTONIC, at which it entered main and at which it was ready. */
#include <arpa/inet.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int listener(void) {
    const char *fds = getenv("LISTEN_FDS"), *port = getenv("PORT");
    if (fds && atoi(fds) > 0) return 3;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(port ? atoi(port) : 0),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 128) < 0) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static void say_ready(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !*path) return;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof to.sun_path) return;
    memcpy(to.sun_path, path, length);
    if (*path == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + length) < 0)
        perror("notify");
    close(fd);
}

int main(int argc, char **argv) {
    long long entered = now();
    int fd = listener();
    long long ready = now();
    if (argc < 2 || strcmp(argv[1], "quiet")) say_ready();
    signal(SIGPIPE, SIG_IGN);
    char line[64];
    int length = snprintf(line, sizeof line, "R %lld %lld\n", entered, ready);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        if (client < 0) continue;
        if (write(client, line, length) < 0) perror("write");
        close(client);
    }
}
